"""Codes: every check of the linter, declared once; `docs/lint.md` is made of this table. Imports nothing.

A code never changes its meaning. The letter says what is looked at: F files and fields, C conversations, R what the
model sees once rendered, T what training data share with each other and with what measures them, D distributions,
Q text quality, S secrets, M the mixture.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Level = Literal["error", "warning"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Code:
    """What a code means."""

    code: str
    level: Level
    """An error stops the run, a warning does not."""
    title: str
    why: str
    fix: str
    example: str


def _error(code: str, title: str, why: str, fix: str, example: str) -> Code:
    return Code(code=code, level="error", title=title, why=why, fix=fix, example=example)


def _warning(code: str, title: str, why: str, fix: str, example: str) -> Code:
    return Code(code=code, level="warning", title=title, why=why, fix=fix, example=example)


TABLE: tuple[Code, ...] = (
    _error(
        "F001", "unreadable row",
        "a row that is skipped in silence is a row that is missing without anybody knowing",
        "correct or delete the row", 'a line such as {"prompt": "a", "completion": "b"',
    ),
    _error(
        "F002", "missing field",
        "without the field there is nothing to ask or nothing to learn",
        "write the field or delete the row; map other names with `columns:`", '{"completion": "Yes"}',
    ),
    _error(
        "F003", "empty text where some is learnt or asked",
        "an empty answer teaches the model to say nothing",
        "write the text or delete the row", '{"prompt": "Is it on?", "completion": ""}',
    ),
    _error(
        "F004", "a field of the wrong kind",
        "what is not text cannot be rendered, and guessing what was meant changes what is learnt",
        "correct the field", 'a turn {"role": "robot", "content": "..."}',
    ),
    _error(
        "F005", "a file that cannot be used",
        "the rows in it would be missing without anybody knowing",
        "correct the path, the encoding or the kind of the file", "a .jsonl file in Latin-1, or one with no rows",
    ),
    _error(
        "F006", "columns or rows whose meaning is not clear",
        "a wrong guess would learn the wrong column",
        "write one shape of rows per file, or say with `columns:` which is meant",
        "a file with `text` and with `prompt` and `completion`",
    ),
    _warning(
        "C001", "two turns of one speaker in a row",
        "most chat templates refuse it or were never trained on it, and often a turn has been lost",
        "join the turns, or put the missing one between them", "user, user, assistant",
    ),
    _warning(
        "C002", "a system message that is not the first",
        "most chat templates refuse it, move it or drop it",
        "put it first, or make it a part of the user's turn", "user, system, assistant",
    ),
    _warning(
        "C003", "the assistant speaks first",
        "many chat templates refuse it, and the first answer is learnt without a question",
        "begin with the user's turn, or delete the greeting", "assistant, user, assistant",
    ),
    _error(
        "C004", "a conversation without an answer, or without a question",
        "there is nothing to learn, or nothing it would be an answer to",
        "let a user's turn come before and the assistant's come last, or delete the row", "user, assistant, user",
    ),
    _warning(
        "C005", "the answer repeats the prompt",
        "the model learns to echo, and the loss looks fine because copying is easy",
        "check how the file was made; write the answers or delete the rows", "prompt and completion are one text",
    ),
    _error(
        "C006", "chosen and rejected are the same",
        "a pair without a difference has no preference to learn",
        "correct one of the two or delete the row", '{"prompt": "a", "chosen": "b", "rejected": "b"}',
    ),
    _error(
        "R001", "nothing to learn in a row",
        "a row without a supervised token costs time and teaches nothing; a file of them ends with a loss of zero",
        "check `train_on` and the row; `temper check --show 3` shows the mask", "a mask that covers every token",
    ),
    _error(
        "R002", "the end of the turn is not learnt",
        "a model that never sees its answers end does not stop talking",
        "let the chat template write the end token after the assistant's turn", "an answer without <|im_end|>",
    ),
    _error(
        "R003", "a doubled beginning-of-sequence token",
        "the model was never trained on two of them; scores shift by several points",
        "take the token out of the text or of the chat template", "<s><s>Hello",
    ),
    _warning(
        "R004", "a special token written out in the text",
        "it is learnt as plain characters and is mostly left from another tool; elsewhere it would end a turn",
        "remove it, or leave it if the text is about it", '"... and then it prints <|im_end|>"',
    ),
    _warning(
        "R005", "a chat template's marks in the text",
        "the text will be rendered once more by the model's own template, so the model learns the marks as words",
        "take the marks out and write the turns as `messages` or `prompt` and `completion`",
        '"[INST] Is it on? [/INST]" as a prompt',
    ),
    _error(
        "R006", "a prompt that fills the whole context",
        "none of the answer fits, so nothing would be learnt",
        "raise max_length, or shorten or delete the row", "a prompt of 5,000 tokens at max_length 2,048",
    ),
    _error(
        "R007", "a row that the model's chat template cannot write",
        "what the template refuses or rewrites, the model was not trained to read",
        "rewrite the row with turns that the template knows", "a system message for a template without one",
    ),
    _warning(
        "T001", "copies of a row",
        "a row given twice counts twice and is learnt by heart first",
        "delete the copies, or leave them if the repetition is meant", "the same line twice",
    ),
    _warning(
        "T002", "one prompt, different short answers",
        "the model can only learn to guess between the answers, and the exam counts one of them as wrong",
        "keep the right answer of each prompt, or add to the prompt what tells them apart",
        '"Is it on?" -> "yes" and "Is it on?" -> "no"',
    ),
    _error(
        "T003", "an exam row in the training data",
        "the exam would measure memory, and choose the checkpoint that memorised most",
        "delete these rows from the training data or from the exam", "one row in both files",
    ),
    _warning(
        "T004", "13 words in a row shared by an exam row and a training row",
        "text copied between the two makes the exam easier than what comes later",
        "split by document or template instead of by row, or delete the copies", "one paragraph in both files",
    ),
    _warning(
        "T005", "too few rows for the technique",
        "the model learns the rows, not the task",
        "add rows; some hundreds are a usual beginning", "8 rows for SFT",
    ),
    _error(
        "T006", "an answer that is cut off",
        "the end of the answer would be cut off and never learnt",
        "raise max_length, or shorten, split or delete these rows", "2,100 tokens at max_length 2,048",
    ),
    _warning(
        "T007", "an exam prompt in the training data, with another answer",
        "the model is trained to give what the exam counts as wrong",
        "correct one of the two answers, or delete the row on one side", '"Is it on?" -> "yes" here, "no" there',
    ),
    _error(
        "T008", "an item of a general probe in the training data",
        "the general abilities would be measured on what was learnt, so forgetting would be hidden",
        "delete the row", "a prompt that is a question of the suite",
    ),
    _warning(
        "T009", "13 words in a row shared with an item of a general probe",
        "the probe becomes easier than the ability it stands for, so forgetting can be hidden",
        "delete the rows, or leave them out of this stage", "a paragraph of an encyclopedia that a probe reads too",
    ),
    _error(
        "T010", "a benchmark's canary",
        "its authors ask that the text never be trained on: scores on it would mean nothing afterwards",
        "delete the row, and look where the file comes from", "a canary GUID in the text",
    ),
    _warning(
        "D001", "nearly equal rows",
        "rows that differ in a word or two count many times, and end up on both sides of a split",
        "keep one of each, e.g. with the filter `near-dedup`", "one letter with two dates",
    ),
    _warning(
        "D002", "rows far longer than the others",
        "they set the memory and the time of a step, and are mostly an accident (a log, a file, a joined row)",
        "look at the rows; shorten, split or delete them", "one row of 40,000 characters among rows of 300",
    ),
    _warning(
        "D003", "one answer on more than nine rows in ten",
        "always giving that answer is a good score, so the model learns little else",
        "add rows of the other answers, or take some of this one out", '97 % of the answers are "no"',
    ),
    _warning(
        "D004", "one answer on every row",
        "the model learns to give it whatever is asked",
        "check that the right column is read as the answer", 'every answer is "ok"',
    ),
    _warning(
        "D005", "answers that all break off at the same length",
        "they were probably cut when the data were made, and the model learns to break off",
        "make the answers again with a higher limit, or delete the rows", "40 answers of 512 characters, in mid-word",
    ),
    _warning(
        "Q001", "text that was decoded wrongly",
        "the model learns to write the damage",
        "read the source again as UTF-8, or repair it (e.g. with ftfy)", '"caf\\u00c3\\u00a9", "\\ufffd"',
    ),
    _warning(
        "Q002", "a very long repetition",
        "repetition is learnt faster than anything else and comes back when the model generates",
        "cut the run or delete the row", '"ha ha ha ..." forty times',
    ),
    _warning(
        "Q003", "control or invisible characters",
        "nobody sees them, the tokenizer does: words are split in strange places or instructions are hidden",
        "remove them", "a zero-width space, a terminal's colour code",
    ),
    _warning(
        "Q004", "HTML left in the text",
        "the model learns to write the tags and entities",
        "convert the text from HTML", '"Hello&nbsp;world<br/>"',
    ),
    _warning(
        "S001", "a key or a password",
        "a model can give away what it was trained on",
        "revoke the key, and replace it by a placeholder", "an access key of a cloud provider",
    ),
    _warning(
        "S002", "personal data: e-mail addresses or card numbers",
        "a model can give away what it was trained on, and the law may forbid training on it",
        "replace them by placeholders, unless you may train on them and mean to", "a mailbox in a ticket's signature",
    ),
    _error(
        "M001", "a share of the mixture with nothing to draw from",
        "the run would not be what the recipe says",
        "take the category out of `from`, or add a source that has it", "`from: {code: 20}` without a source of code",
    ),
    _warning(
        "M002", "a category that the mixture leaves out",
        "what is not replayed is forgotten first; probes of the category may fall",
        "give it a share, or write 0 if that is meant", "sources of safety rows, and no share for safety",
    ),
    _error(
        "M003", "a source that is there to be measured on, in the mixture",
        "training on it would make the measurement worthless",
        "take it out of the mixture", "a share for a source whose role is eval-only",
    ),
)  # fmt: skip

CODES: Mapping[str, Code] = {code.code: code for code in TABLE}

GROUPS: Mapping[str, str] = {
    "F": "Files and fields",
    "C": "Conversations",
    "R": "Rendered rows",
    "T": "Training data, exam and probes",
    "D": "Distributions",
    "Q": "Text quality",
    "S": "Secrets",
    "M": "Mixture",
}
