"""Build a tokenizer of every class with Hugging Face tokenizers and print what it makes of random texts.

    python classes.py TEXTS SEED > classes.json     (peer_test.go does; testdata/classes.json.gz is 60 texts, seed 1)

Output: {"texts": [...], "tokenizers": [{"name", "json", "ids", "plain", "whole", "decode": [[ids, text, raw], ...]}]};
plain is null where it is ids, whole (with the post-processor's tokens) is for the first texts only.
"""
import base64
import json
import random
import struct
import sys
import unicodedata

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

COUNT, SEED = int(sys.argv[1]), int(sys.argv[2])

GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
LLAMA3 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
QWEN2 = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
CL100K = r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}| ?[^\s\p{L}\p{N}]++[\r\n]*+|\s*[\r\n]|\s+(?!\S)|\s+".replace("(?i:[sdmt]|ll|ve|re)", "(?i:s|d|m|t|ll|ve|re)")
O200K = "|".join([
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
    r"\p{N}{1,3}", r" ?[^\s\p{L}\p{N}]+[\r\n/]*", r"\s*[\r\n]+", r"\s+(?!\S)", r"\s+"])
DEEPSEEK = [r"\p{N}{1,3}", "[一-龥぀-ゟ゠-ヿ]+",
            "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\\r\\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+| ?[\\p{P}\\p{S}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"]
CLIP = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"

FRAGMENTS = ("the|The| the|hello|HELLO|naïve|Straße|İstanbul|ﬁne|ÅNGSTRÖM|東京|日本語| 世界|مرحبا|नमस्ते|привет|e\u0301|d\u0323|o\u0308\u0304|\u1100\u1161\u11a8|가"
             "|'s|'S|'ll|'LL|'t|'re|'Ve|'m|'d|'ſ|'x|'|’s| |  |   |\t|\n|\r\n|\n\n|\r|        |\u00a0|\u3000|\u2028|\u0085|\x0b|\x1c|\u200b|\u200d|\ufeff"
             "|0|7|42|123|12345|½|²|٣|ⅷ|①|\U0001d7ce|.|,|!|?!|--|...|$|(|)|{}|[|]|_|#|##|\"|://|``|''|/|\\|~|@|🙂|👩\u200d👩\u200d👧|👍🏽|🇩🇪🇫🇷|\ufffd|\u00ad"
             "|\x00|\x01|\x04|\x1f|\x7f|▁|▁▁|▁the|<0x0A>|<0x41>|Ａ|Ａ\u0308|ｶﾞ|㌀|ǅ|\u0130\u0307|ss|aa|aaa|aaaa| a|b a").split("|")
SPECIALS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<s>", "</s>", "<unk>", "<pad>", "[CLS]", "[SEP]", "[UNK]", "[MASK]", "<think>", "<mask>", "<|im_"]


def random_text(rng):
    out = []
    for _ in range(rng.randrange(14)):
        kind = rng.randrange(14)
        if kind == 0:
            c = rng.randrange(0x110000)
            if not 0xD800 <= c < 0xE000:
                out.append(chr(c))
        elif kind == 1:
            out.append(chr(rng.randrange(0x3400)))
        elif kind == 2:
            out.append(chr(rng.randrange(128)))
        elif kind == 3:
            out.append(rng.choice(SPECIALS))
        else:
            out.append(rng.choice(FRAGMENTS))
    return "".join(out)


def charsmap():
    """SentencePiece's form of normalization rules: a darts-clone double array and the replacements."""
    rules = {"\t": " ", "\n": " ", "\r": " ", "\u00a0": " ", "\x01": "", "\x04": "", "e\u0301": "é", "d\u0323": "ḍ", "ｶﾞ": "ガ", "aaaa": "A"}
    for c in list(range(0xA0, 0x250)) + list(range(0x2000, 0x2200)) + list(range(0x2460, 0x2480)) + list(range(0xFB00, 0xFB07)) + list(range(0xFF01, 0xFF60)):
        n = unicodedata.normalize("NFKC", chr(c))
        if n != chr(c):
            rules.setdefault(chr(c), n)
    blob, trie = b"", {}
    for key, value in rules.items():
        node = trie
        for b in key.encode():
            node = node.setdefault(b, {})
        node[0] = len(blob)
        blob += value.encode() + b"\0"
    units, used = {0: 0}, set()

    def place(node, at):
        base = 1
        while base in used or any(base ^ label in units for label in node):
            base += 1
        used.add(base)
        for label in node:
            units[base ^ label] = label
        units[at] |= (at ^ base) << 10 | (256 if 0 in node else 0)
        for label, child in node.items():
            if label == 0:
                units[base] = child | 1 << 31
            else:
                place(child, base ^ label)

    place(trie, 0)
    array = [units.get(i, 0) for i in range(max(units) // 256 * 256 + 256)]
    return struct.pack("<I", 4 * len(array)) + struct.pack(f"<{len(array)}I", *array) + blob


def corpus():
    rng = random.Random(5)
    words = [f for f in FRAGMENTS if f.strip()] + "it's a small world where parrots said that day after day and nobody knew why they'd gone".split()
    return [" ".join(rng.choice(words) for _ in range(12)) + rng.choice(["", "\n", "  ", "!"]) for _ in range(400)]


CORPUS = corpus()
BYTES = pre_tokenizers.ByteLevel.alphabet()
TOKENIZERS = []


def keep(name, t, special=(), plain=(), post=None, decoder=None, edit=None):
    t.add_special_tokens(list(special))
    t.add_tokens(list(plain))
    if post:
        t.post_processor = post(t)
    if decoder:
        t.decoder = decoder
    if edit:  # settings a trainer does not keep
        f = json.loads(t.to_str())
        edit(f)
        t = Tokenizer.from_str(json.dumps(f))
    TOKENIZERS.append((name, t))


def affixes(model):
    return {k: v for k, v in (model or {}).items() if k in ("continuing_subword_prefix", "end_of_word_suffix")}


def split(expression, behavior="isolated", invert=False):
    return pre_tokenizers.Split(Regex(expression), behavior, invert)


def byte_bpe(name, pre, normalizer=None, size=420, model=None, **kw):
    t = Tokenizer(models.BPE(**(model or {})))
    if normalizer:
        t.normalizer = normalizer
    t.pre_tokenizer = pre
    t.train_from_iterator(CORPUS, trainers.BpeTrainer(vocab_size=size, initial_alphabet=BYTES, special_tokens=["<|endoftext|>"], show_progress=False,
                                                      **affixes(model)))
    kw.setdefault("decoder", decoders.ByteLevel())
    keep(name, t, **kw)


def byte_level(prefix=False, regex=True):
    return pre_tokenizers.ByteLevel(add_prefix_space=prefix, use_regex=regex)


def seq(*steps):
    kinds = {"normalizers": normalizers, "pre_tokenizers": pre_tokenizers, "decoders": decoders}
    module = next(m for k, m in kinds.items() if k in type(steps[0]).__module__ + repr(type(steps[0])))
    return module.Sequence(list(steps))


CHAT = ["<|im_start|>", "<|im_end|>"]
byte_bpe("gpt2", byte_level())
byte_bpe("roberta", byte_level(prefix=True), special=["<s>", "</s>", AddedToken("<mask>", lstrip=True)],
         post=lambda t: processors.RobertaProcessing(("</s>", t.token_to_id("</s>")), ("<s>", t.token_to_id("<s>"))))
byte_bpe("smollm", seq(pre_tokenizers.Digits(True), byte_level()), special=CHAT)
byte_bpe("digit runs", seq(pre_tokenizers.Digits(False), byte_level()))
byte_bpe("llama3", seq(split(LLAMA3), byte_level(regex=False)), model={"ignore_merges": True}, special=["<s>"],
         post=lambda t: processors.Sequence([processors.ByteLevel(trim_offsets=False), processors.TemplateProcessing("<s> $A", "<s> $A <s> $B", [("<s>", t.token_to_id("<s>"))])]))
byte_bpe("qwen3", seq(split(QWEN2), byte_level(regex=False)), normalizers.NFC(), special=CHAT, plain=[AddedToken("<think>", normalized=False)])
byte_bpe("cl100k", seq(split(CL100K), byte_level(regex=False)))
byte_bpe("o200k", seq(split(O200K), byte_level(regex=False)))
byte_bpe("deepseek", seq(*[split(e) for e in DEEPSEEK], byte_level(regex=False)))
byte_bpe("neox", byte_level(), normalizers.NFC(), plain=[AddedToken(" " * n, normalized=True) for n in (2, 3, 4, 8)])
byte_bpe("clip", seq(split(CLIP, "removed", True), byte_level(regex=False)), seq(normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()),
         model={"end_of_word_suffix": "</w>", "unk_token": "<|endoftext|>"})
byte_bpe("byte normalizer", pre_tokenizers.Split("Ġ", "merged_with_next"), normalizers.ByteLevel())


def char_bpe(name, pre=None, normalizer=None, decoder=None, fallback=True, special=("<unk>", "<s>", "</s>"), model=None, **kw):
    t = Tokenizer(models.BPE(byte_fallback=fallback, fuse_unk=kw.pop("fuse", True), unk_token="<unk>", **(model or {})))
    if normalizer:
        t.normalizer = normalizer
    train_pre = kw.pop("train_pre", pre_tokenizers.Metaspace())
    t.pre_tokenizer = train_pre
    alphabet = kw.pop("alphabet", [])
    t.train_from_iterator(CORPUS, trainers.BpeTrainer(vocab_size=520 if fallback else 400, limit_alphabet=70, initial_alphabet=alphabet, show_progress=False,
                                                      special_tokens=list(special) + ([f"<0x{b:02X}>" for b in range(256)] if fallback else []), **affixes(model)))
    t.pre_tokenizer = pre

    def edit(f):  # byte tokens are no added tokens
        f["added_tokens"] = [a for a in f["added_tokens"] if not a["content"].startswith("<0x")]
    keep(name, t, decoder=decoder, edit=edit, **kw)


LLAMA2 = seq(decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0))
BOS = dict(post=lambda t: processors.TemplateProcessing("<s> $A", "<s> $A <s> $B", [("<s>", t.token_to_id("<s>"))]))
char_bpe("llama2", None, seq(normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")), LLAMA2, **BOS)
char_bpe("llama2 first", pre_tokenizers.Metaspace(prepend_scheme="first", split=False), None, LLAMA2, **BOS)
char_bpe("gemma", pre_tokenizers.Split(" ", "merged_with_previous"), normalizers.Replace(" ", "▁"),
         seq(decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()), plain=[AddedToken("▁▁", normalized=False), AddedToken("\n\n", normalized=False)], **BOS)
char_bpe("phi3", None, seq(normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")), LLAMA2,
         plain=[AddedToken("<|im_end|>", rstrip=True, special=True, normalized=False), AddedToken("</s>", rstrip=True, normalized=False)])
char_bpe("no fallback", pre_tokenizers.Metaspace(prepend_scheme="always"), None, decoders.Metaspace(), fallback=False)
char_bpe("no fallback, unknown apart", pre_tokenizers.Metaspace(prepend_scheme="never"), None, decoders.Metaspace(prepend_scheme="never"), fallback=False, fuse=False)
char_bpe("openai gpt", pre_tokenizers.BertPreTokenizer(), normalizers.BertNormalizer(), decoders.BPEDecoder(), fallback=False, fuse=False,
         train_pre=pre_tokenizers.BertPreTokenizer(), model={"end_of_word_suffix": "</w>"})
char_bpe("subword prefix", pre_tokenizers.WhitespaceSplit(), None, decoders.WordPiece("##", cleanup=False), fallback=False,
         train_pre=pre_tokenizers.WhitespaceSplit(), model={"continuing_subword_prefix": "##"})


def unigram(name, pre, normalizer=None, fallback=False, decoder=None, special=("<pad>", "</s>", "<unk>"), **kw):
    t = Tokenizer(models.Unigram())
    if normalizer:
        t.normalizer = normalizer
    t.pre_tokenizer = pre_tokenizers.Metaspace()
    t.train_from_iterator(CORPUS, trainers.UnigramTrainer(vocab_size=350, special_tokens=list(special), unk_token="<unk>", show_progress=False))

    def edit(f):
        if fallback:
            f["model"]["byte_fallback"] = True
            f["model"]["vocab"] += [[f"<0x{b:02X}>", -30.0] for b in range(256) if f"<0x{b:02X}>" not in dict(f["model"]["vocab"])]
    t.pre_tokenizer = pre
    keep(name, t, decoder=decoder or decoders.Metaspace(), edit=edit, **kw)


PRECOMPILED = normalizers.Precompiled(charsmap())
EOS = dict(post=lambda t: processors.TemplateProcessing("$A </s>", "$A </s> $B </s>", [("</s>", t.token_to_id("</s>"))]))
unigram("t5", pre_tokenizers.Metaspace(), PRECOMPILED, **EOS)
unigram("xlm-r", seq(pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()), PRECOMPILED, special=("<s>", "<pad>", "</s>", "<unk>", "<mask>"),
        post=lambda t: processors.TemplateProcessing("<s> $A </s>", "<s> $A </s> </s> $B </s>", [(s, t.token_to_id(s)) for s in ("<s>", "</s>")]))
unigram("pegasus", pre_tokenizers.Metaspace(prepend_scheme="first"), seq(PRECOMPILED, normalizers.Strip(left=True, right=True), normalizers.Replace(Regex(" {2,}"), "▁")), **EOS)
unigram("albert", pre_tokenizers.Metaspace(), seq(normalizers.Replace("``", '"'), normalizers.Replace("''", '"'), normalizers.NFKD(), normalizers.StripAccents(),
                                                 normalizers.Lowercase(), PRECOMPILED, normalizers.Replace(Regex(" {2,}"), " ")))
unigram("unigram bytes", None, seq(normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")), fallback=True, decoder=LLAMA2)
unigram("unigram nmt", pre_tokenizers.Metaspace(prepend_scheme="first"), seq(normalizers.Nmt(), normalizers.NFKC()))
unigram("unigram nfd", pre_tokenizers.Metaspace(prepend_scheme="never", split=False), normalizers.NFD(), decoder=decoders.Metaspace(prepend_scheme="never"))


def wordpiece(name, pre, normalizer, decoder=None, **kw):
    t = Tokenizer(models.WordPiece(unk_token="[UNK]", max_input_chars_per_word=12))
    if normalizer:
        t.normalizer = normalizer
    t.pre_tokenizer = pre
    t.train_from_iterator(CORPUS, trainers.WordPieceTrainer(vocab_size=350, special_tokens=["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"], show_progress=False))
    keep(name, t, decoder=decoder or decoders.WordPiece(), **kw)


wordpiece("bert uncased", pre_tokenizers.BertPreTokenizer(), normalizers.BertNormalizer(), post=lambda t: processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2)))
wordpiece("bert cased", pre_tokenizers.BertPreTokenizer(), normalizers.BertNormalizer(lowercase=False, handle_chinese_chars=False))
wordpiece("wordpiece", pre_tokenizers.Whitespace(), seq(normalizers.Strip(), normalizers.NFD(), normalizers.StripAccents()), decoders.WordPiece(cleanup=False))


def word_level(name, pre, normalizer=None, decoder=None, **kw):
    t = Tokenizer(models.WordLevel(unk_token="<unk>"))
    if normalizer:
        t.normalizer = normalizer
    t.pre_tokenizer = pre
    t.train_from_iterator(CORPUS, trainers.WordLevelTrainer(vocab_size=600, special_tokens=["<unk>", "<pad>"], show_progress=False))
    keep(name, t, decoder=decoder, **kw)


word_level("word level", pre_tokenizers.Whitespace())
word_level("added tokens", pre_tokenizers.WhitespaceSplit(), normalizers.Lowercase(), special=[AddedToken("<s>", lstrip=True, rstrip=True), AddedToken("</s>", normalized=True)],
           plain=[AddedToken("the", single_word=True, normalized=False), AddedToken("HELLO", normalized=True), AddedToken("aa", lstrip=True, normalized=False),
                  AddedToken("<think>", rstrip=True), AddedToken("42", single_word=True)],
           decoder=seq(decoders.Replace("the", "THE"), decoders.Replace(Regex("[aeiou]{2,}"), "-"), decoders.Strip("a", 1, 0)))
for behavior in ["removed", "isolated", "merged_with_previous", "merged_with_next", "contiguous"]:
    word_level("punctuation " + behavior, pre_tokenizers.Punctuation(behavior))
    word_level("split " + behavior, split(r"\d|\s+|[[;:]!-/]", behavior))
    word_level("split inverted " + behavior, pre_tokenizers.Split("a", behavior, True))
    word_level("split empty matches " + behavior, split(r"(?<=a)|\p{Lu}*", behavior))
word_level("delimiter", pre_tokenizers.CharDelimiterSplit("a"), seq(normalizers.NFKD(), normalizers.Replace(Regex(r"\A(?!(?:hello)\z)"), "a"), normalizers.Replace(Regex("^|$|[^\\p{L}\\p{Po} -~]|\\P{Sc}(?=1)"), "|")))

rng = random.Random(SEED)
texts = [random_text(rng) for _ in range(COUNT)]
out = []
for name, t in TOKENIZERS:
    ids = [e.ids for e in t.encode_batch(texts, add_special_tokens=False)]
    whole = [e.ids for e in t.encode_batch(texts[:20])]
    t.encode_special_tokens = True
    plain = [e.ids for e in t.encode_batch(texts, add_special_tokens=False)]
    t.encode_special_tokens = False
    size = max(t.get_vocab().values()) + 1
    sample = ids[: COUNT // 2] + [[rng.randrange(size) for _ in range(rng.randrange(12))] for _ in range(COUNT // 2)]
    for s in sample[COUNT // 2::3]:  # runs of tokens for bytes
        low = t.token_to_id("<0x00>")
        if low is not None:
            s[1:1] = [low + b for b in rng.choice(FRAGMENTS).encode()[: rng.randrange(1, 6)]]
    decode = list(zip(sample, t.decode_batch(sample), t.decode_batch(sample, skip_special_tokens=False)))
    out.append({"name": name, "json": json.loads(t.to_str()), "ids": ids, "plain": [None if p == i else p for p, i in zip(plain, ids)], "whole": whole, "decode": decode})
json.dump({"texts": texts, "tokenizers": out}, sys.stdout)
