"""Answers encode and decode questions with Hugging Face tokenizers, for the tests.

stdin: {"tokenizer": <tokenizer.json>, "texts": [...], "ids": [[...], ...]}
stdout: {"encode": [[id]], "plain": [[id]], "decode": [text], "raw": [text]}
"plain" does not parse special tokens, "raw" keeps them; both decodings are of "ids".
"""
import json
import sys

from tokenizers import Tokenizer

q = json.load(sys.stdin)
t = Tokenizer.from_str(json.dumps(q["tokenizer"]))
out = {"encode": [e.ids for e in t.encode_batch(q["texts"], add_special_tokens=False)]}
t.encode_special_tokens = True
out["plain"] = [e.ids for e in t.encode_batch(q["texts"], add_special_tokens=False)]
out["decode"] = t.decode_batch(q["ids"])
out["raw"] = t.decode_batch(q["ids"], skip_special_tokens=False)
out["withbos"] = t.encode("a").ids
json.dump(out, sys.stdout)
