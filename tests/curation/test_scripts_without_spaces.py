"""Near copies in languages that put no spaces between words are caught; look-alikes of a template are not."""

import unicodedata

import pytest
from made_by_hand import episode

from agentloop.curation import duplicates
from agentloop.curation.scoring import score
from agentloop.curation.selection import select
from agentloop.errors import ContaminationError, StoreError
from agentloop.records import Task
from agentloop.settings import Selection
from agentloop.store import tasks
from agentloop.store.ingest import ingest
from agentloop.store.shards import write_shard

ONE, OTHER = (4, 7, 3, 9, 5), (6, 2, 8, 5, 9)
QUESTIONS = {
    "Chinese": (
        "一家商店以每支{1}枚硬币的价格出售{0}支红色钢笔，以每支{3}枚硬币的价格出售{2}支蓝色钢笔，星期五每支钢笔便宜一枚硬币；"
        "如果一位顾客在星期五买下所有的红色钢笔和所有的蓝色钢笔，而且她有一张价值{4}枚硬币的代金券可以用来付款，"
        "那么她一共需要支付多少枚硬币？",
        ("多少枚硬币", "几枚硬币"),
        "请一步一步地思考下面的问题，然后只回答一个数字。",
        "今天天气怎么样？",
    ),
    "Japanese": (
        "ある店では赤いペンを一本{1}枚の硬貨で{0}本、青いペンを一本{3}枚の硬貨で{2}本売っています。金曜日にはすべてのペンが一枚ずつ"
        "安くなります。ある客が金曜日に赤いペンと青いペンをすべて買い、さらに硬貨{4}枚分の割引券を持っているとすると、"
        "全部で何枚の硬貨を支払うことになりますか？",
        ("なりますか", "なるでしょうか"),
        "次の問題を順番に考えて、数字だけで答えてください。",
        "今日の天気はどうですか？",
    ),
    "Thai": (
        "ร้านค้าแห่งหนึ่งขายปากกาสีแดง {0} ด้ามในราคาด้ามละ {1} เหรียญ และปากกาสีน้ำเงิน {2} ด้ามในราคาด้ามละ {3} เหรียญ "
        "และในวันศุกร์ปากกาทุกด้ามมีราคาถูกลงหนึ่งเหรียญ ถ้าลูกค้าคนหนึ่งซื้อปากกาสีแดงและปากกาสีน้ำเงินทั้งหมดในวันศุกร์ "
        "โดยที่เธอมีคูปองส่วนลดมูลค่า {4} เหรียญ ลูกค้าคนนั้นจะต้องจ่ายเงินทั้งหมดกี่เหรียญสำหรับปากกาทุกด้าม",
        ("ทุกด้าม", "ทั้งหมด"),
        "โปรดคิดทีละขั้นตอนแล้วตอบเป็นตัวเลขเท่านั้น ",
        "วันนี้อากาศเป็นอย่างไร",
    ),
    "Khmer": (
        "ហាងមួយលក់ប៊ិចពណ៌ក្រហម {0} ដើមក្នុងតម្លៃ {1} កាក់ក្នុងមួយដើម និងប៊ិចពណ៌ខៀវ {2} ដើមក្នុងតម្លៃ {3} កាក់ក្នុងមួយដើម "
        "ហើយនៅថ្ងៃសុក្រប៊ិចទាំងអស់ចុះថ្លៃមួយកាក់ ប្រសិនបើអតិថិជនម្នាក់ទិញប៊ិចទាំងអស់នៅថ្ងៃសុក្រ "
        "ហើយនាងមានប័ណ្ណបញ្ចុះតម្លៃចំនួន {4} កាក់ តើនាងត្រូវបង់ប្រាក់ប៉ុន្មានកាក់ទាំងអស់",
        ("ទាំងអស់", "សរុប"),
        "សូមគិតមួយជំហានម្តងៗ ",
        "តើអាកាសធាតុថ្ងៃនេះយ៉ាងណា",
    ),
}
EVERY = pytest.mark.parametrize("language", QUESTIONS)


def task(question: str, split: str = "train", **payload) -> Task:
    return Task("arithmetic", "shop", question, "1", split, payload)


def fullwidth(text: str) -> str:
    return "".join(chr(ord(sign) + 0xFEE0) if "!" <= sign <= "~" else sign for sign in text)


def choose(database, tmp_path, chosen, parameters=None):
    path = tmp_path / "a.parquet"
    episodes = [episode(each, sample, answer="" if sample else None) for each in chosen for sample in range(2)]
    write_shard(path, episodes, purpose="collect", campaign="main", iteration=1)
    ingest(database, [path])
    score(database, {"arithmetic": lambda each, answer: float(answer == each.answer)})
    return select(database, "rejection", "main", 1, parameters or Selection())


def reworded(language: str, how: str) -> str:
    question, words, wrapped, _ = QUESTIONS[language]
    text = question.format(*ONE)
    return {
        "a word": lambda: words[1].join(text.rsplit(words[0], 1)),
        "wrapped": lambda: wrapped + text,
        "wrapped in English": lambda: f"Think step by step about this. {text} Give only the number, please.",
        "width": lambda: fullwidth(text),
        "signs": lambda: text.translate(str.maketrans(dict.fromkeys("，；。、？", " "))) + " !",
        "encoding": lambda: unicodedata.normalize("NFD", text),
        "invisible": lambda: "\u200b".join(text[first : first + 5] for first in range(0, len(text), 5)),
    }[how]()


@EVERY
@pytest.mark.parametrize("how", ["a word", "wrapped", "wrapped in English", "width", "signs", "encoding", "invisible"])
def test_a_near_copy_of_a_heldout_task_is_named(database, tmp_path, language, how):
    near, heldout = task(reworded(language, how)), task(QUESTIONS[language][0].format(*ONE), "heldout")
    assert how == "encoding" or near.question != heldout.question
    tasks.save(database, [heldout])
    other = task(QUESTIONS[language][3])
    with pytest.raises(ContaminationError, match="^1 chosen trajectories are nearly the same") as refused:
        choose(database, tmp_path, [task(near.question, seed=1), other])
    assert f"is nearly task {heldout.id}" in str(refused.value)


@EVERY
def test_other_numbers_in_one_template_and_short_texts_are_other_tasks(database, tmp_path, language):
    question, _, _, short = QUESTIONS[language]
    tasks.save(database, [task(question.format(*ONE), "heldout"), task(f"{short} 7", "heldout")])
    training = [task(question.format(*OTHER)), task(f"{short} 8"), task(short)]
    chosen = choose(database, tmp_path, training, Selection(max_overlap=1))
    assert len(chosen.dataset.trajectories) == 3


@EVERY
def test_a_short_text_is_named_where_it_is_the_same(database, tmp_path, language):
    tasks.save(database, [task(QUESTIONS[language][3], "heldout")])
    with pytest.raises(ContaminationError, match="are nearly the same"):
        choose(database, tmp_path, [task(f"{QUESTIONS[language][3]} !")])


@EVERY
def test_near_duplicates(database, language):
    question, words, _, short = QUESTIONS[language]
    texts = [
        question.format(*ONE),
        words[1].join(question.format(*ONE).rsplit(words[0], 1)),
        question.format(*OTHER),
        short,
        fullwidth(short),
    ]
    rows = ", ".join(f"('{place}', '', {place}, NULL, ?)" for place in range(len(texts)))
    database.execute(
        f"CREATE OR REPLACE TEMP TABLE texts AS SELECT * FROM (VALUES {rows}) t(name, block, place, family, text)",
        texts,
    )
    assert duplicates.near(database, 0.7) == [("1", "0"), ("4", "3")]


@pytest.mark.parametrize(
    ("copy", "same"),
    [
        ("CAFE\u0301 DES AMIS", True),
        ("caf\u00e9 des\u00ad amis", True),
        ("\uff23\uff21\uff26\u00c9 des amis", True),
        ("cafe des amis", False),
    ],
)
def test_words_with_accents(database, tmp_path, copy, same):
    tasks.save(database, [task("Caf\u00e9 des amis?", "heldout")])
    if not same:
        assert len(choose(database, tmp_path, [task(copy)]).dataset.trajectories) == 1
        return
    with pytest.raises(ContaminationError, match="are nearly the same"):
        choose(database, tmp_path, [task(copy)])


def test_vowel_signs_are_part_of_a_word(database, tmp_path):
    """Two Hindi questions that differ in vowel signs alone."""
    tasks.save(database, [task("\u0915\u093f\u0924\u093e\u092c \u0915\u0939\u093e\u0901?", "heldout")])
    assert len(choose(database, tmp_path, [task("\u0915\u0924\u092c \u0915\u0939?")]).dataset.trajectories) == 1


def test_a_benchmark_of_prompts_as_editors_save_them(database, tmp_path):
    prompts = tmp_path / "prompts.txt"
    short = QUESTIONS["Chinese"][3]
    prompts.write_bytes(f"\ufeffWhat is\u2028that?\r\n{short}\r\n".encode())
    parameters = Selection(benchmarks=prompts)
    with pytest.raises(ContaminationError, match=r"is nearly line 2 of prompts.txt"):
        choose(database, tmp_path, [task(short)], parameters)
    prompts.write_bytes(short.encode("utf-16"))
    with pytest.raises(StoreError, match="^selection.benchmarks: .*prompts.txt: is UTF-16; save it as UTF-8$"):
        select(database, "rejection", "main", 1, parameters)
    prompts.write_bytes(b"What?\ncaf\xe9\n")
    with pytest.raises(StoreError, match="^selection.benchmarks: .*prompts.txt, line 2: is not UTF-8"):
        select(database, "rejection", "main", 1, parameters)
