"""PaliGemma's tokens, through a sentencepiece model trained here, and a contract that carries it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from test_contract import full_contract

from alam_models.contract import Contract, Tokenizer, encode_instruction

sentencepiece = pytest.importorskip("sentencepiece")

WORDS = (
    "open", "close", "the", "drawer", "door", "window", "push", "pull", "press", "button", "pick", "place", "up", "put",
    "on", "a", "red", "green", "plate", "cup", "and",
)  # fmt: skip


def train(folder: Path, **options: object) -> str:
    """A small model of PaliGemma's kind -> its path."""
    text = folder / "text.txt"
    text.write_text("\n".join(" ".join(WORDS[i:] + WORDS[:i]) for i in range(len(WORDS))) * 3)
    kind = {"pad_id": 0, "eos_id": 1, "bos_id": 2, "unk_id": 3, "user_defined_symbols": ["\n"], **options}
    sentencepiece.SentencePieceTrainer.train(
        input=str(text),
        model_prefix=str(folder / "pieces"),
        vocab_size=90,
        model_type="bpe",
        add_dummy_prefix=False,
        normalization_rule_name="identity",
        hard_vocab_limit=False,
        minloglevel=2,
        **kind,
    )
    return str(folder / "pieces.model")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return train(tmp_path_factory.mktemp("pieces"))


def test_a_text_has_a_beginning_its_pieces_a_lines_end_and_padding(model: str) -> None:
    pieces = sentencepiece.SentencePieceProcessor(model_file=model)
    tokens = encode_instruction(" push the red button ", Tokenizer("paligemma", 48, model)).tolist()
    used = [token for token in tokens if token != 0]
    assert len(tokens) == 48 and tokens[len(used) :] == [0] * (48 - len(used))
    assert used[0] == pieces.bos_id() and used[-1] == pieces.piece_to_id("\n")
    assert pieces.decode(used[1:-1]) == "push the red button"


def test_nothing_is_cut_off(model: str) -> None:
    text = "open the drawer"
    needed = int((encode_instruction(text, Tokenizer("paligemma", 48, model)) != 0).sum())
    assert encode_instruction(text, Tokenizer("paligemma", needed, model)).all()
    with pytest.raises(ValueError, match=f"1 to {needed - 1} tokens, got {needed}"):
        encode_instruction(text, Tokenizer("paligemma", needed - 1, model))


def test_a_token_beyond_the_vocabulary_is_refused(model: str) -> None:
    for tokenizer in (Tokenizer("paligemma", 24, model), Tokenizer("bytes", 24)):
        largest = int(encode_instruction("open the door", tokenizer).max())
        wanted = encode_instruction("open the door", replace(tokenizer, vocabulary=largest + 1))
        assert (wanted == encode_instruction("open the door", tokenizer)).all()
        with pytest.raises(ValueError, match=f"below the vocabulary of {largest}, got {largest}: 'open the door'"):
            encode_instruction("open the door", replace(tokenizer, vocabulary=largest))
    with pytest.raises(ValueError, match="above 0 for vocabulary, got 0"):
        replace(full_contract(), tokenizer=Tokenizer("bytes", 24, vocabulary=0))


@pytest.mark.parametrize("text", ["", "  "])
def test_an_empty_instruction_is_refused(model: str, text: str) -> None:
    for tokenizer in (Tokenizer("paligemma", 8, model), Tokenizer("bytes", 8)):
        with pytest.raises(ValueError, match="wanted words"):
            encode_instruction(text, tokenizer)


def test_a_file_that_is_no_tokenizer_of_this_kind_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no such file"):
        encode_instruction("push", Tokenizer("paligemma", 8, str(tmp_path / "none.model")))
    (tmp_path / "text.model").write_text("words")
    with pytest.raises(ValueError, match="another file"):
        encode_instruction("push", Tokenizer("paligemma", 8, str(tmp_path / "text.model")))
    with pytest.raises(ValueError, match="padding -1"):
        other = train(tmp_path, pad_id=-1, unk_id=0)
        encode_instruction("push", Tokenizer("paligemma", 8, other))


@pytest.mark.parametrize(("kind", "path"), [("paligemma", None), ("bytes", "pieces.model"), ("words", None)])
def test_a_path_belongs_to_paligemma_alone(kind: str, path: str | None) -> None:
    with pytest.raises(ValueError, match="tokenizer"):
        Tokenizer(kind, 8, path)


def test_a_saved_contract_carries_its_tokenizer_to_wherever_its_folder_moves(model: str, tmp_path: Path) -> None:
    contract = replace(full_contract(), tokenizer=Tokenizer("paligemma", 16, model))
    here = tmp_path / "here"
    here.mkdir()
    contract.save(here / "contract.yaml")
    assert (
        str(tmp_path) not in (here / "contract.yaml").read_text() and model not in (here / "contract.yaml").read_text()
    )
    there = here.rename(tmp_path / "there")
    loaded = Contract.load(there / "contract.yaml")
    assert loaded.tokenizer is not None and loaded.tokenizer.path == str(there / "tokenizer.model")
    wanted = encode_instruction("open the door", Tokenizer("paligemma", 16, model))
    assert (encode_instruction("open the door", loaded.tokenizer) == wanted).all()
    loaded.save(there / "contract.yaml")  # in place
    again = tmp_path / "again"
    again.mkdir()
    loaded.save(again / "contract.yaml")
    assert Contract.load(again / "contract.yaml").tokenizer == Tokenizer(
        "paligemma", 16, str(again / "tokenizer.model")
    )
