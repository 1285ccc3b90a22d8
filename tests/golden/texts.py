"""Texts for the tokenizers."""

from __future__ import annotations

TEXTS = {
    "plain": "The old bridge was built in 1844.",
    "capitals": "THE Queen Of LONDON",
    "accents": "Café naïve résumé ÅÉÎ Zürich MÜNCHEN",
    "combining accents": "Cafe\u0301 nai\u0308ve a\u0328\u0301",
    "other scripts": "αβω Ωμέγα я Я ß ẞ ø İstanbul ŉ",
    "CJK": "東京都の中年 日本カメラ一二三",
    "CJK in a word": "the東京city",
    "rare CJK": "\u3400\U00020000\uf900 a",
    "Hangul": "서울 한국",
    "control characters": "a\x00b\x01c\x7fd\u200de\ufeff the\u00adcity",
    "replacement character": "cat\ufffddog",
    "white space": " \t the\u00a0old\u2003city\r\n\nof\u3000gold\u2028x\x0bz\x0cy ",
    "only white space": " \t\n ",
    "empty": "",
    "emoji": "nice 😀 cat 👩‍🔬 ❤️",
    "private use": "\ue000 the \U000f0000",
    "punctuation": 'don\'t... (new-town); "old" [x] <y> #1 $5 50% a_b @me €5 20° “q” – …',
    "more punctuation": "a*b/c\\d^e`f{g|h}i~j ¿no? ¡si! «x» 。、",
    "apostrophes": "do n't it 's , he 'll . can not ! ?",
    "numbers": "1900 19691969 3.14 1,000 007 ½ ²",
    "pieces": "unaffable playing warmest Norwickville redness",
    "unknown piece": "quiz puzzle jazz",
    "long word": "a" * 100,
    "too long word": "a" * 101,
    "too long word in a sentence": "the " + "b" * 250 + " city",
    "special tokens": "the [MASK] of [UNK] [SEP] and [CLS] [PAD]",
    "special tokens without space": "old[MASK]city [mask] [ SEP ] [unused0]x",
    "lower-case special tokens": "[cls] the [sep]",
    "marked pieces": "##s un ##aff ##able",
    "long": "the king of the old city built a bridge and a tower " * 6,
}

PAIRS = {
    "short": ("Who built it?", "The king built the tower."),
    "empty second": ("Who built it?", ""),
    "empty first": ("", "The king."),
    "first longer": (TEXTS["long"], "the cat"),
    "second longer": ("the cat", TEXTS["long"]),
    "both long": (TEXTS["long"][:120], TEXTS["long"]),
}

TRUNCATIONS = {
    "longest first": {"truncation": True, "max_length": 16},
    "only first": {"truncation": "only_first", "max_length": 90},
    "only second": {"truncation": "only_second", "max_length": 90},
    "padded": {"truncation": True, "padding": "max_length", "max_length": 20},
    "with special tokens mask": {"truncation": True, "max_length": 12, "return_special_tokens_mask": True},
    "bare": {"add_special_tokens": False, "truncation": True, "max_length": 10},
}

SETTINGS = {
    "default": {},
    "cased": {"do_lower_case": False},
    "cased without accents": {"do_lower_case": False, "strip_accents": True},
    "lower case with accents": {"strip_accents": False},
    "CJK in words": {"tokenize_chinese_chars": False},
}

CANDIDATES = [["Hello world!", "Nice to meet you!", "The cute cat."], ["", "Café in 東京", "old [MASK] city"]]
CANDIDATE_PAIRS = [["the king", "a tower", "gold"], ["the river", "", "the queen of the old city"]]

CANDIDATE_CALLS = {
    "padded": {"max_length": 10},
    "truncated": {"max_length": 5, "truncation": True},
    "pairs": {"text_pair": CANDIDATE_PAIRS, "max_length": 16},
    "truncated pairs": {"text_pair": CANDIDATE_PAIRS, "max_length": 7, "truncation": True},
    "without token types": {"max_length": 10, "return_token_type_ids": False},
    "without attention mask": {"max_length": 10, "return_attention_mask": False},
    "bare": {"max_length": 10, "add_special_tokens": False},
}

ID_LISTS = {"one": ([10, 11, 12], None), "pair": ([10, 11], [12, 13, 14]), "empty": ([], None), "empty pair": ([], [9])}
WITH_SPECIAL_TOKENS = [2, 40, 41, 3, 42, 1, 4, 3, 0, 0]
