"""Train SentencePiece models of every kind and print what SentencePiece makes of random texts.

    python pieces.py TEXTS SEED [NAME,...] > pieces.json     (sentencepiece_test.go does; testdata/pieces.json.gz is
                                                             60 1 "llama,gemma,bpe characters,t5,unigram bytes")

Output: {"texts": [...], "models": [{"name", "model": base64, "ids": [...], "decoded": [...]}]}
"""
import base64
import io
import json
import os
import random
import sys

import sentencepiece

source = open(os.path.join(os.path.dirname(os.path.abspath(__file__)), "classes.py")).read()
shared = {}  # the texts of classes.py, without what needs tokenizers
begin, end = source.index("FRAGMENTS ="), source.index("def charsmap")
exec("import random\n" + source[begin:end], shared)

COUNT, SEED = int(sys.argv[1]), int(sys.argv[2])
rng = random.Random(SEED)
texts = [shared["random_text"](rng) for _ in range(COUNT)]
texts = [t.replace("\0", "") for t in texts]  # the Python module cuts texts there

rng = random.Random(5)
words = [f for f in shared["FRAGMENTS"] if f.strip() and "\0" not in f] + "it's a small world where parrots said that day after day and nobody knew why they'd gone".split()
corpus = [" ".join(rng.choice(words) for _ in range(12)) for _ in range(500)]

KINDS = {
    "llama": dict(model_type="bpe", byte_fallback=True, normalization_rule_name="identity", remove_extra_whitespaces=False, split_digits=True),
    "gemma": dict(model_type="bpe", byte_fallback=True, normalization_rule_name="identity", remove_extra_whitespaces=False, add_dummy_prefix=False,
                  user_defined_symbols=["▁▁", "▁▁▁", "\n", "\n\n", "<table>", "the"]),
    "bpe": dict(model_type="bpe", normalization_rule_name="nmt_nfkc"),
    "bpe user": dict(model_type="bpe", normalization_rule_name="nfkc", user_defined_symbols=["<think>", "aa", "▁the", "a▁b"], split_by_whitespace=False),
    "bpe characters": dict(model_type="bpe", normalization_rule_name="identity", character_coverage=0.98, split_by_unicode_script=False, split_by_number=False),
    "t5": dict(model_type="unigram", normalization_rule_name="nmt_nfkc"),
    "unigram bytes": dict(model_type="unigram", normalization_rule_name="identity", byte_fallback=True, remove_extra_whitespaces=False),
    "unigram folded": dict(model_type="unigram", normalization_rule_name="nmt_nfkc_cf", user_defined_symbols=["<think>", "aa", "▁the", "a▁b", "42"]),
    "unigram spaces": dict(model_type="unigram", normalization_rule_name="nfkc", split_by_whitespace=False, add_dummy_prefix=False, allow_whitespace_only_pieces=True, remove_extra_whitespaces=False),
}
out = []
for name, settings in KINDS.items():
    if len(sys.argv) > 3 and name not in sys.argv[3].split(","):
        continue
    blob = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(sentence_iterator=iter(corpus), model_writer=blob, minloglevel=2, num_threads=1, **({} if settings["model_type"] == "bpe" else {"hard_vocab_limit": False}),
                                             vocab_size=640 if settings.get("byte_fallback") else 360, **settings)
    p = sentencepiece.SentencePieceProcessor(model_proto=blob.getvalue())
    ids = [p.encode(t) for t in texts]
    out.append({"name": name, "model": base64.b64encode(blob.getvalue()).decode(), "ids": ids, "decoded": [p.decode(i) for i in ids]})
json.dump({"texts": texts, "models": out}, sys.stdout)
