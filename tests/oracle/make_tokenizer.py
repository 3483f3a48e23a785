"""Write the golden token ids and offsets of one model's tokenizer.

usage: make_tokenizer.py MODEL FOLDER FILE.gguf OUT.json.gz
MODEL is smollm2 or gemma3; FOLDER its Hugging Face folder, whose tokenizer.json goes through
`tokenizers`, the authority for well-formed text; FILE.gguf goes through llama.cpp, the authority
for the rest. Needs tokenizers and llama-cpp-python; the test-suite needs neither.

The file holds
- cases: text, whether special tokens are parsed, ids, and for each token the characters it covers
  (null where `tokenizers` loses count because the vocabulary lacks a token for some byte);
- bytes: texts that are not UTF-8 (hexadecimal), with the ids of llama.cpp;
- code_points: for each 256 code points the first 8 digits of the SHA-256 of "id id;id;..." with the
  ids of every one of them alone; surrogates are left out.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import json
import pathlib
import random
from collections.abc import Iterator
from typing import Any

import llama_cpp
import tokenizers

SENTENCES = [
    "The lighthouse keeper counted 1,984 ships and wrote the number down twice.",
    "It's what they'd said: we'll see, I'm sure you've heard, you're late, don't!",
    "IT'S WHAT THEY'D SAID: WE'LL SEE, I'M SURE YOU'VE HEARD, YOU'RE LATE, DON'T!",
    "Die Brücke über den Fluß ist seit gestern gesperrt; Umleitung über Großweiler.",
    "Le café de la gare ferme à minuit, où l'été s'achève déjà.",
    "El niño pequeño comió piñones ¿verdad? ¡Claro que sí!",
    "Zażółć gęślą jaźń. Příliš žluťoučký kůň. Árvíztűrő tükörfúrógép.",
    "Поезд на Владивосток уходит в 23:45 с третьего пути.",
    "Потяг до Києва вже їде, а п'ятий вагон — ні.",
    "Το τρένο φεύγει στις οκτώ· πού είναι ο σταθμός;",
    "הרכבת לחיפה יוצאת בשעה שמונה, אל תאחר!",
    "שָׁלוֹם עֲלֵיכֶם",
    "القطار إلى القاهرة يغادر في الساعة ٨:٣٠ صباحًا.",
    "قطار تهران ساعت ۸ می\u200cرود.",
    "ریل گاڑی لاہور جاتی ہے۔",
    "दिल्ली की रेलगाड़ी सुबह ८ बजे जाती है।",
    "ঢাকার ট্রেন সকাল ৮টায় ছাড়ে।",
    "சென்னைக்கு ரயில் எட்டு மணிக்குப் புறப்படும்.",
    "హైదరాబాద్ రైలు ఎనిమిది గంటలకు బయలుదేరుతుంది.",
    "ಬೆಂಗಳೂರು ರೈಲು, മലയാളം തീവണ്ടി, සිංහල දුම්රිය",
    "รถไฟไปเชียงใหม่ออกเวลาแปดโมงเช้า ๘ นาฬิกา",
    "ລົດໄຟໄປວຽງຈັນ ຂ້ອຍ ញុំ រថភ្លើងទៅភ្នំពេញ",
    "ရန်ကုန်သို့ ရထား ၈ နာရီ ထွက်သည်။",
    "ལྷ་ས་ལ་མེ་འཁོར་འགྲོ་གི་རེད།",
    "東京行きの電車は八時に出発します。カタカナ、ひらがな、ﾊﾝｶｸ。",
    "开往北京的火车八点出发,票价¥123.45元。",
    "開往臺北的火車八點出發。",
    "서울행 기차는 여덟 시에 출발합니다. 한글 자모: ㄱㄴㄷ ᄀᄂᄃ",
    "Tàu đi Hà Nội khởi hành lúc tám giờ. Nguyễn Thị Ngọc",
    "Mtreni wa kwenda Nairobi unaondoka saa mbili. Ọkọ̀ ojú irin",
    "ባቡሩ ወደ አዲስ አበባ ይሄዳል። ᏣᎳᎩ ᎦᏬᏂᎯᏍᏗ ᐃᓄᒃᑎᑐᑦ",
    "თბილისის მატარებელი, Երևանի գնացքը, Қазақ тілі, Монгол ᠮᠣᠩᠭᠣᠯ",
    "𝔘𝔫𝔦𝔠𝔬𝔡𝔢 𝟙𝟚𝟛 𝒜ℬ𝒞 ｆｕｌｌｗｉｄｔｈ　ｔｅｘｔ １２３",
    "𓀀𓁐 𒀀𒁀 𐎀𐎁 𐌰𐌱 𐤀𐤁 𖼀 𛀀",
    "Ⅷ ⅷ ½ ⅓ ² ³ ₄ ① ⑳ ㈠ ㊿ ٣ ۴ ५ ৬ 〇 一二三 ௰ ፲ 𐄇 𝟗 🄀",
    "U+11DE0 \U00011de0\U00011de3 U+16FF4 \U00016ff4 1\U00011de11",
    "👩‍👩‍👧‍👦 🏳️‍🌈 🇩🇪🇫🇷 👍🏽 ☺️ ☺ 🧑🏿‍🚀 #️⃣ 1️⃣ 🫠",
    "e\u0301 é a\u030a\u0323 n\u0303o \u0301 q\u0307\u0323 ạ̈̂ Z̴̧͍a̸l̶g̷o̵",
    "∀x∈ℝ: ⌈x⌉ = −⌊−x⌋, α ∧ ¬β ⇒ γ; ∑ᵢ xᵢ² ≈ 3.14·10⁻⁷ €£₿",
    "for (int i = 0; i < n; ++i) {\n\tsum += a[i] * b[i]; /* dot */\n}\r\nreturn sum;\r\n",
    "def f(x: int) -> str:\n    '''doc'''\n    return f\"{x!r:>10}\"  # comment\n\n\nf(3)\n",
    "SELECT name, COUNT(*) FROM t WHERE a <> 'it''s' GROUP BY 1 -- done",
    '<p class="x">a &amp; b<br/></p><!-- c --><table><tr><td>1</td></tr></table>',
    '{"key": [1, 2.5e-3, null, true, "\\u00e9\\n"], "nested": {"a": {}}}',
    "https://example.org/a_b/c-d?e=%20f&g=1#h user@example.org C:\\Temp\\new ~/x.tar.gz",
    "snake_case camelCase PascalCase SCREAMING_CASE kebab-case x86_64 utf8 H2O 2nd 3D",
    "…—–‘’“”«»„‚‹›¡¿§¶†‡•‰′″※",
    "a\u00a0b\u2003c\u3000d\u200be\ufefff\u2060g\u180eh\u0085i\u2028j\u2029k\u202fl\u1680m",
    "1 12 123 1234 12345 1234567890 1,234,567.89 0x1F 1e10 3.14159 -7 +7 ½3 3½",
    "'s 't 're 've 'm 'll 'd 'S 'T 'RE 'VE 'M 'LL 'D 'ſ 'x ' s ''s x's's",
    "\ud7ff\ue000\uf8ff\ufffd\uffff\U00010000\U000f0000\U0010ffff\ufdd0",
    "Ā\u0120Ġ Ċ ĉ Ģ ą Ń byte-alphabet letters Ġthe Ċ",
    "<0x41> <0x0A> <0xFF> <unk> <s> </s> <pad> [UNK] <|endoftext|",
]
MARKS = ["▁", "▁▁", "▁▁▁", " ▁", "▁ ", "a▁b", "▁a", "a ▁ b", "▁▁ ▁", "\n▁", "x▁▁▁▁y"]
SPECIALS = {
    "smollm2": ["<|im_start|>", "<|im_end|>", "<|endoftext|>", "<repo_name>", "<empty_output>"],
    "gemma3": ["<bos>", "<eos>", "<unk>", "<start_of_turn>", "<end_of_turn>", "<unused5>"],
}
USER_DEFINED = ["<table>", "</td>", "<h1>", "[multimodal]", "<start_of_image>", "\n\n", "\t\t"]


def special_texts(model: str) -> Iterator[str]:
    """Yield texts with special and user-defined tokens whole, cut and nested."""
    for token in SPECIALS[model] + USER_DEFINED:
        yield token
        yield f"a{token}b"
        yield f" {token} {token}{token}\n"
        yield token[:-1]
        yield token[:2] + token + token[1:]
    a, b = SPECIALS[model][:2]
    yield f"{a}user\nHi there{b}\n{a}assistant\n"
    yield f"<{a}{b}>"
    yield a.upper()
    yield f"12{a}34 \t{b}  "


def run_texts() -> Iterator[str]:
    """Yield runs of blanks and long words."""
    for n in (1, 2, 3, 4, 5, 7, 8, 15, 16, 17, 30, 31, 32, 33, 40, 62, 63, 64, 100):
        for blank in (" ", "\n", "\t"):
            yield blank * n
            yield f"a{blank * n}b"
        yield "\r\n" * n + "x"
        yield " \n" * n
        yield "x" + " " * n + "\n" + " " * n + "1"
        yield "\u3000" * n + "a"
    for n in (50, 200, 1000):
        yield "a" * n
        yield "ab" * n
        yield "1" * n
        yield "ü" * n
        yield "漢" * n
        yield "antidisestablishment" * (n // 20)
        yield "-" * n
        yield "." * n + "!"


def control_texts() -> Iterator[str]:
    """Yield every control character in three surroundings."""
    for c in [*range(0x20), 0x7F, 0x80, 0x85, 0x9F, 0xAD]:
        yield chr(c)
        yield f"a{chr(c)}b"
        yield f"!{chr(c)}! {chr(c)}1"


def random_texts(count: int) -> Iterator[str]:
    """Yield reproducible mixtures."""
    rng = random.Random(20240607)
    pools = [
        list("abc  \n\t'\r"),
        [chr(c) for c in range(0x20, 0x7F)],
        [chr(c) for c in range(0x250)],
        [chr(c) for c in range(0x3000) if not 0xD800 <= c < 0xE000],
        [chr(c) for c in range(0x110000) if not 0xD800 <= c < 0xE000],
        list("0123456789 ½Ⅷa٣"),
        list(" \u00a0\u2003\u3000\r\n\u0085x1!'sSſ"),
        ["\n", "\n\n", "▁", " ", "  ", "\t", "<bos>", "<|im_start|>", "<", "b>", "<table>", "x"],
        SENTENCES[0].split(" ") + SENTENCES[1].split(" ") + ["[x]", "==", "->", "//", "of", "in"],
        [word for sentence in SENTENCES for word in sentence.split(" ")],
    ]
    for _ in range(count):
        pool = rng.choice(pools)
        if rng.random() < 0.3:
            pool = pool + rng.choice(pools)
        joint = rng.choice(["", "", " "])
        yield joint.join(rng.choice(pool) for _ in range(rng.randint(1, 40)))


def texts(model: str) -> list[tuple[str, bool]]:
    """Return every text once with whether special tokens are parsed."""
    out: dict[tuple[str, bool], None] = {("", False): None, ("", True): None}
    plain = [*SENTENCES, *MARKS, *run_texts(), *control_texts()]
    plain += ["\n".join(SENTENCES), " ".join(reversed(SENTENCES))]
    plain += [f" {s}" for s in SENTENCES] + [s[len(s) // 2 :] for s in SENTENCES]
    out.update(dict.fromkeys((s, False) for s in plain))
    out.update(dict.fromkeys((s, p) for s in special_texts(model) for p in (False, True)))
    out.update(dict.fromkeys((s, i % 3 == 0) for i, s in enumerate(random_texts(700))))
    return list(out)


def ill_formed() -> list[bytes]:
    """Return byte strings that are not UTF-8, without those that abort llama.cpp.

    A four-byte form beyond U+10FFFF ends the process there.
    """
    rng = random.Random(7)
    out = [b"\xff", b"a\xffb", b"a \xff\xfe b", b"\xc3", b"\xe4\xb8", b"caf\xe9 x", b"\x80\x80"]
    out += [
        b"\xed\xa0\x80",
        b"\xed\xb0\x80x",
        b"\xc0\x80",
        b"\xc1\x81",
        b"\xe0\x80\x80",
        b"\xe4\xb8a",
    ]
    out += [bytes([b]) for b in range(0x80, 0x100)] + [
        b"ab " + bytes([b]) for b in range(0x80, 0x100)
    ]
    pools = [
        bytes(range(256)),
        b"\x80\xbf\xc3\xa9\xe4\xb8\xad\xf0\x9f\x98\x80\xff\xfe ab 1",
        b"\xed\xa0\x80\xc0\x80\xe0\x80a \n",
        b"abc \xff\xe9",
    ]
    while len(out) < 800:
        pool = rng.choice(pools)
        out.append(bytes(rng.choice(pool) for _ in range(rng.randint(1, 24))))
    return [text for text in dict.fromkeys(out) if not is_utf8(text) and not aborts(text)]


def is_utf8(text: bytes) -> bool:
    """Say whether text is well-formed."""
    try:
        text.decode()
    except UnicodeDecodeError:
        return False
    return True


def aborts(text: bytes) -> bool:
    """Say whether text has a four-byte form beyond U+10FFFF."""
    return any(
        0xF4 <= text[i] <= 0xF7
        and all(b & 0xC0 == 0x80 for b in text[i + 1 : i + 4])
        and (text[i] > 0xF4 or text[i + 1] >= 0x90)
        for i in range(len(text) - 3)
    )


class LlamaCpp:
    """llama.cpp's tokenizer of a GGUF file."""

    def __init__(self, path: pathlib.Path) -> None:
        self.model = llama_cpp.Llama(str(path), vocab_only=True, verbose=False)
        self.vocab = llama_cpp.llama_model_get_vocab(self.model.model)

    def encode(self, text: bytes) -> list[int]:
        """Return the ids without bos, special tokens not parsed."""
        room = 3 * len(text) + 16
        ids = (llama_cpp.llama_token * room)()
        n = llama_cpp.llama_tokenize(self.vocab, text, len(text), ids, room, False, False)
        return list(ids[:n])


def missing_bytes(tokenizer: tokenizers.Tokenizer) -> set[int]:
    """Return the bytes a byte-level vocabulary has no token for."""
    if tokenizer.token_to_id("<0x00>") is not None:
        return set()
    known = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    rest = [b for b in range(256) if b not in known]
    alphabet = {b: chr(b) for b in known} | {b: chr(256 + i) for i, b in enumerate(rest)}
    return {b for b, c in alphabet.items() if tokenizer.token_to_id(c) is None}


def golden_cases(tokenizer: tokenizers.Tokenizer, model: str) -> list[dict[str, Any]]:
    """Return ids and offsets of every text."""
    missing = missing_bytes(tokenizer)
    cases = []
    for text, special in texts(model):
        tokenizer.encode_special_tokens = not special
        encoding = tokenizer.encode(text, add_special_tokens=False)
        case = {"text": text, "special": special, "ids": encoding.ids, "offsets": None}
        if missing.isdisjoint(text.encode()):
            case["offsets"] = [x for pair in encoding.offsets for x in pair]
        cases.append(case)
    return cases


def golden_code_points(tokenizer: tokenizers.Tokenizer) -> list[str]:
    """Return a short hash of the ids of each 256 code points."""
    tokenizer.encode_special_tokens = True
    blocks = []
    for first in range(0, 0x110000, 256):
        chars = [chr(c) for c in range(first, first + 256) if not 0xD800 <= c < 0xE000]
        ids = [e.ids for e in tokenizer.encode_batch(chars, add_special_tokens=False)]
        line = "".join(" ".join(map(str, one)) + ";" for one in ids)
        blocks.append(hashlib.sha256(line.encode()).hexdigest()[:8])
    return blocks


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", choices=SPECIALS)
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("gguf", type=pathlib.Path)
    parser.add_argument("out", type=pathlib.Path)
    arguments = parser.parse_args()
    source = arguments.folder / "tokenizer.json"
    tokenizer = tokenizers.Tokenizer.from_file(str(source))
    llama = LlamaCpp(arguments.gguf)
    golden = {
        "model": arguments.model,
        "made_with": {
            "tokenizers": tokenizers.__version__,
            "llama_cpp_python": llama_cpp.__version__,
            "tokenizer_json_sha256": hashlib.sha256(source.read_bytes()).hexdigest(),
        },
        "cases": golden_cases(tokenizer, arguments.model),
        "bytes": [{"hex": b.hex(), "ids": llama.encode(b)} for b in ill_formed()],
        "code_points": golden_code_points(tokenizer),
    }
    text = json.dumps(golden, separators=(",", ":"))
    arguments.out.write_bytes(gzip.compress(text.encode(), 9, mtime=0))
    print(arguments.out, len(golden["cases"]), "texts", len(golden["bytes"]), "byte strings")


if __name__ == "__main__":
    main()
