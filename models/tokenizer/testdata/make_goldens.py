"""Makes goldens.json: four small tokenizers trained by Hugging Face tokenizers on the
sentences below, and what it answers for strings that are hard to split.

    pip install tokenizers && python3 make_goldens.py > goldens.json
"""
import json
import sys

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

LLAMA3 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
QWEN2 = LLAMA3.replace("{1,3}", "")

TEXT = """The parrot said that it's the best day they've had, and we'll see what you'd say.
def add(a, b):
    return a + b  # 12 + 345 = 357

	if x == 10:
		print("x is 10, isn't it?")
Die Straße führt über die Brücke; l'été, le café était fermé — naïve, garçon!
Привет, как дела? 东京和北京都是城市。 مرحبا بالعالم. नमस्ते दुनिया। 🙂🙂👩‍👩‍👧
1234567 2024-11-05 3.14159 $1,234.56 <b>bold</b> http://example.org/a?b=c&d=e
I'M SURE HE'LL SAY IT'S FINE, THEY'RE LATE AND YOU'VE WON.
"""

CASES = [
    "", " ", "  ", "\n", "\r\n\r\n", "a", " a", "  a", "   a b", "a  ", "a \n b", "a\n\n  b", "\t\tx", " \t x", "x\u00a0y", "x \u00a0y\u3000z",
    "it's IT'S It'S they'll THEY'LL 'tis 'x 's' ''s 'ſo 'RE're'Re 'v 'l 'LLama d'd",
    "don'T can't WE'D we'd",
    "0", "12", "123", "1234", "12345678 9", " 1 22  333", "x1y22z333", "٣٤٥ ⅷ ½²x ๒๓", "1.5e-10", "3\u0301",
    "!!", " !!x", "a!b", "?!\n", "?!\r\n\n x", " ?\n?", "...\n\n\nend", "-- -x--\t-", "$1,234.56!", "(a)[b]{c}",
    "naïve café — 東京 🙂👩\u200d👩\u200d👧 \u200b x", "e\u0301 é ﬁ Å \u212b 가 \u1100\u1161", "Ünïcödé ÀÉÎ ß", "مرحبا بالعالم", "नमस्ते", "\u0301x \u0301",
    "\U0001f600\U0010ffff\ufffd\ufffe", "\x00\x01\x04\x7f\x85\u2028\u2029", "\u1c89\U0002ebf0\U00011bf0\U00011de0 \ua7cb1",
    "def f(x):\n    return x**2  # comment\n", "a\u0085b \u0085 c", "<|endoftext|>", "x<|endoftext|><|im_start|>user\nHi<|im_end|>\n", "<|im_<|im_start|>|>",
    "<think>so</think> <thinking>", "a<|endoftext|> b <|endoftext|>", "éclair <ḍ> <d\u0323>", "unmergeable unmergeable", " parrot parrots",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", "the the the they're",
]

byte_level = lambda regex: pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=regex)
split = lambda regex: pre_tokenizers.Split(Regex(regex), "isolated")
PRE = {
    "gpt-2": byte_level(True),
    "smollm": pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), byte_level(True)]),
    "llama-bpe": pre_tokenizers.Sequence([split(LLAMA3), byte_level(False)]),
    "qwen2": pre_tokenizers.Sequence([split(QWEN2), byte_level(False)]),
}


def make(name):
    t = Tokenizer(models.BPE())
    t.pre_tokenizer, t.decoder = PRE[name], decoders.ByteLevel()
    if name == "qwen2":
        t.normalizer = normalizers.NFC()
    specials = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    t.train_from_iterator([TEXT], trainers.BpeTrainer(vocab_size=520, special_tokens=specials, initial_alphabet=alphabet, show_progress=False))
    if name == "llama-bpe":
        file = json.loads(t.to_str())  # a word no merge makes, and one that merges would cut otherwise
        file["model"]["ignore_merges"] = True
        for word in ["unmergeable", "\u0120unmergeable", "\u0120parrots"]:
            file["model"]["vocab"][word] = len(file["model"]["vocab"])
        t = Tokenizer.from_str(json.dumps(file))
    t.add_tokens([AddedToken("<think>", normalized=False), AddedToken("</think>", normalized=False), AddedToken("<ḍ>", normalized=True)])
    t.post_processor = processors.ByteLevel(trim_offsets=False)
    if name == "llama-bpe":
        bos = processors.TemplateProcessing(single="<|endoftext|> $A", special_tokens=[("<|endoftext|>", 0)])
        t.post_processor = processors.Sequence([t.post_processor, bos])
    return t


out = []
for name in PRE:
    t = make(name)
    cases = []
    for text in CASES:
        t.encode_special_tokens = False
        ids = t.encode(text, add_special_tokens=False).ids
        t.encode_special_tokens = True
        cases.append({"text": text, "ids": ids, "plain": t.encode(text, add_special_tokens=False).ids,
                      "decoded": t.decode(ids), "raw": t.decode(ids, skip_special_tokens=False)})
    broken = [[t.token_to_id(c) for c in w] for w in ["Ã", "âĤ", "âĤa", "ðŁĻĤ", "ðŁĻ", "ÿx", "à¤Ġ", "Ã©", "íłĢ", "ôĲ"]]
    broken = [{"ids": ids, "decoded": t.decode(ids)} for ids in broken]
    t.encode_special_tokens = False
    out.append({"name": name, "tokenizer": json.loads(t.to_str()), "cases": cases, "broken": broken, "withbos": t.encode("a").ids})
json.dump(out, sys.stdout, ensure_ascii=True, separators=(",", ":"))
print()
