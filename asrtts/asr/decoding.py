"""How a model is searched: the settings `decoding:`, and which searches there are."""

from __future__ import annotations

from pydantic import Field, field_validator

from asrtts.config import Settings
from asrtts.registry import find, names, suggestion

HEADS = "asrtts.asr.heads"
GREEDY_CTC = "ctc_greedy"
JOINT = "joint_beam"
# The one place that names heads: searches of several heads, of which the first grows the hypotheses and the second
# scores them; and the head that leads no search while another of the same weight can (CTC is the usual auxiliary loss).
JOINT_SEARCHES = {JOINT: ("attention", "ctc")}
AUXILIARY = "ctc"


def methods() -> list[str]:
    """What `decoding.method` may ask for: `<head>_<search>` of every head there is, and the joint search."""
    own = [f"{head}_{search}" for head in names(HEADS) for search in find(HEADS, head).Head.searches]
    return [*own, *JOINT_SEARCHES]


def heads_of(method: str) -> tuple[str, ...]:
    """The heads that a search needs, the leading one first: ctc_prefix_beam -> ctc."""
    if method in JOINT_SEARCHES:
        return JOINT_SEARCHES[method]
    return tuple(head for head in names(HEADS) if method.startswith(f"{head}_"))[-1:]


class Decoding(Settings):
    """How a model is searched. `auto` takes the search that fits the heads."""

    method: str = "auto"  # or ctc_greedy, ctc_prefix_beam, transducer_greedy, transducer_beam, and so on
    beam: int = Field(10, ge=1, le=10_000)
    nbest: int = Field(1, ge=1, le=10_000)
    ctc_weight: float = Field(0.3, ge=0.0, le=1.0)  # joint_beam: share of the CTC prefix score
    length_bonus: float = 0.0  # added for every token; of no use to greedy CTC
    lm: str | None = None  # folder of a language model (`asrtts lm`)
    lm_weight: float = Field(0.3, ge=0.0)
    lodr: str | None = None  # folder of an n-gram of the training text, order 2: its scores are subtracted
    lodr_weight: float = Field(0.1, ge=0.0)

    @field_validator("method")
    @classmethod
    def _exists(cls, method: str) -> str:
        if method != "auto" and method not in methods():
            raise ValueError(f"there is no '{method}'{suggestion(method, ['auto', *methods()])}")
        return method

    @property
    def lms(self) -> list[tuple[str, float]]:
        """Folder and weight of the language models that have a say."""
        weights = ((self.lm, self.lm_weight), (self.lodr, -self.lodr_weight))
        return [(folder, weight) for folder, weight in weights if folder is not None and weight]
