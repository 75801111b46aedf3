"""Searches: CTC prefix beam, CTC prefix scores, joint CTC and attention beam, against WeNet's and ESPnet's.

    python benchmarks/searches.py [--threads 1] [--repeat 5]

An utterance is 4.5 s long: 112 encoder frames, 15 tokens of 4232, which both models know without being certain, as
trained ones do. The decoder's weights are ours, copied into ESPnet's; each program ends its sentences by its own rules.
Both ask CTC for the scores of 15 tokens of each hypothesis. The note says how far the scores of the best
hypotheses are apart, and the script fails where they should be equal and are not.
"""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Callable, Iterator

import torch
from _common import NOT_INSTALLED, Row, interleaved, main, peer, ratio, version
from torch import Tensor, nn

from asrtts.asr.heads.attention import Config, Head
from asrtts.search.ctc_prefix import ctc_prefix_beam
from asrtts.search.ctc_prefix_score import ctc_prefix_scores
from asrtts.search.hypothesis import Hypothesis

FRAMES, TOKENS, VOCAB, DIM, BEAM, BATCH = 112, 15, 4232, 256, 10, 8
CTC_WEIGHT, SURE = 0.3, 12.0  # by how much a trained model's logit of the right token is above the others
PRE_BEAM = 15  # tokens of a hypothesis that CTC scores: 1.5 times the beam
SAME = 1e-4

Scored = list[tuple[list[int], float]]  # the best hypothesis of each utterance


def posteriors(tokens: Tensor, generator: torch.Generator) -> Tensor:
    """(B, T, V) log-probabilities of CTC that says the tokens (B, U) at even distances, blank between them."""
    logits = torch.randn(len(tokens), FRAMES, VOCAB, generator=generator)
    logits[:, :, 0] += SURE / 2  # the blank is never far
    said = torch.zeros(len(tokens), FRAMES, dtype=torch.long)
    said[:, (torch.arange(TOKENS) + 1) * FRAMES // (TOKENS + 1)] = tokens
    return (logits + SURE * nn.functional.one_hot(said, VOCAB)).log_softmax(-1)


def knowing(head: Head, enc: Tensor, tokens: Tensor) -> Head:
    """The head with an output layer, fitted by least squares, that expects the tokens (B, U) of each utterance."""
    decoder, eos = head.decoder, tokens.new_full((len(tokens), 1), head.eos)
    for module in head.modules():
        if isinstance(module, nn.LayerNorm):
            module.eps = 1e-12  # ESPnet's
    hidden = []
    handle = decoder.norm.register_forward_hook(lambda *call: hidden.append(call[2].flatten(0, 1)))
    decoder(torch.cat([eos, tokens], 1), enc, torch.full((len(enc),), FRAMES))
    handle.remove()
    wanted = SURE * nn.functional.one_hot(torch.cat([tokens, eos], 1).flatten(), VOCAB + 1)
    decoder.output.weight += torch.linalg.lstsq(hidden[0], wanted.float(), driver="gelsd").solution.T
    return head


@torch.no_grad()
def example() -> tuple[Head, Tensor, Tensor]:
    """Attention head, encoder output (B, T, D), CTC log-probabilities (B, T, V)."""
    torch.manual_seed(0)
    tokens = torch.randint(1, VOCAB, (BATCH, TOKENS))
    enc = torch.randn(BATCH, FRAMES, DIM)
    head = Head(Config(memory_positions=False), DIM, VOCAB).eval()
    return knowing(head, enc, tokens), enc, posteriors(tokens, torch.Generator().manual_seed(1))


def rows(repeat: int = 5) -> Iterator[Row]:
    head, enc, log_probs = example()
    yield from prefix_beam_rows(log_probs[:1], repeat)
    yield prefix_score_row(log_probs[:1], repeat)
    yield from joint_rows(head, enc, log_probs, min(repeat, 3))


def compared(
    what: str, case: str, times: dict[str, list[float]], label: str, goal: float | None, note: str = ""
) -> Row:
    """The row of `ours` against `theirs`, where there is one."""
    mine, theirs = statistics.median(times["ours"]), times.get("theirs")
    if theirs is None:
        return Row(what, case, mine, label, goal=goal, note=NOT_INSTALLED)
    return Row(what, case, mine, label, statistics.median(theirs), ratio(times, "ours", "theirs"), goal, note=note)


# CTC prefix beam


def prefix_beam_rows(log_probs: Tensor, repeat: int) -> Iterator[Row]:
    lens, case = torch.tensor([FRAMES]), f"beam {BEAM}, T {FRAMES}, V {VOCAB}"
    wenet = peer("wenet.models.transformer.search") or peer("wenet.transformer.search")  # where it is, and was

    def ours() -> Hypothesis:
        return ctc_prefix_beam(log_probs, lens, BEAM, per_frame=BEAM - 1)[0][0]  # and the blank

    def wenets() -> tuple[list[int], float]:
        best = wenet.ctc_prefix_beam_search(log_probs, lens, BEAM)[0]
        return list(best.tokens), best.nbest_scores[0]

    peers: dict[str, Callable[[], tuple[list[int], float]] | None]
    peers = {
        version("wenet") if wenet else "WeNet": wenets if wenet else None,
        "textbook": lambda: textbook_prefix_beam(log_probs[0]),
    }
    for label, theirs in peers.items():
        ways = {"ours": ours, **({"theirs": theirs} if theirs else {})}
        note = apart([(ours().tokens, ours().score)], [theirs()]) if theirs else ""
        yield compared(
            "CTC prefix beam", case, interleaved(ways, repeat), label, None if label == "textbook" else 1 / 40, note
        )


def textbook_prefix_beam(log_probs: Tensor) -> tuple[list[int], float]:
    """The baseline: prefixes as tuples in a dictionary, each with what ends in blank and what ends in its token."""
    beam = {(): (0.0, -math.inf)}
    for row, best in zip(log_probs.tolist(), log_probs.topk(BEAM).indices.tolist(), strict=True):
        grown: dict[tuple[int, ...], list[float]] = defaultdict(lambda: [-math.inf, -math.inf])
        for prefix, (blank, label) in beam.items():
            both = log_add(blank, label)
            for token in best:
                if token == 0:
                    grown[prefix][0] = log_add(grown[prefix][0], both + row[0])
                    continue
                repeated, longer = prefix[-1:] == (token,), grown[(*prefix, token)]
                longer[1] = log_add(longer[1], (blank if repeated else both) + row[token])
                if repeated:
                    grown[prefix][1] = log_add(grown[prefix][1], label + row[token])
        beam = dict(sorted(grown.items(), key=lambda item: -log_add(*item[1]))[:BEAM])
    prefix, score = max(beam.items(), key=lambda item: log_add(*item[1]))
    return list(prefix), log_add(*score)


def log_add(a: float, b: float) -> float:
    high, low = max(a, b), min(a, b)
    return high if low == -math.inf else high + math.log1p(math.exp(low - high))


# CTC prefix scores


def prefix_score_row(log_probs: Tensor, repeat: int) -> Row:
    espnet = peer("espnet.nets.ctc_prefix_score")
    generator = torch.Generator().manual_seed(2)
    drawn = torch.stack([torch.randperm(VOCAB - 1, generator=generator)[:BEAM] + 1 for _ in range(TOKENS)])
    best = torch.cat([torch.zeros(TOKENS, PRE_BEAM - BEAM, dtype=torch.long), drawn], 1).clamp(min=1)
    best[:, : PRE_BEAM - BEAM] = torch.arange(1, 1 + PRE_BEAM - BEAM)
    best = best.unsqueeze(1).expand(-1, BEAM, -1)  # (steps, K, candidates)
    lens = torch.tensor([FRAMES])

    def ours() -> Tensor:
        """Candidates of the last step (K, C); hypothesis k goes on with its k-th drawn token."""
        scores, parents = ctc_prefix_scores(log_probs, lens), torch.zeros(1, BEAM, dtype=torch.long)
        for step, tokens in enumerate(drawn):
            found = scores.candidates(best[step, None, : BEAM if step else 1])
            scores.advance(parents, tokens[None])
            parents = torch.arange(BEAM)[None]
        return found[0]

    def theirs() -> Tensor:
        scorer = espnet.CTCPrefixScoreTH(padded(log_probs), lens, 0, VOCAB)
        state, prefixes = None, torch.full((BEAM, 1), VOCAB)
        for tokens, candidates in zip(drawn, best, strict=True):
            _, state = scorer(prefixes, state, candidates)
            found = state[1]
            state = scorer.index_select_state(state, (torch.arange(BEAM) * (VOCAB + 1) + tokens)[None])
            prefixes = torch.cat([prefixes, tokens[:, None]], 1)
        return found.gather(1, best[-1])

    note = f"scores {(ours() - theirs()).abs().max():.0e} apart" if espnet else ""
    times = interleaved({"ours": ours, **({"theirs": theirs} if espnet else {})}, repeat)
    case = f"{TOKENS} steps, beam {BEAM}, T {FRAMES}, V {VOCAB}, {PRE_BEAM} candidates"
    return compared("CTC prefix scores", case, times, label(espnet, "CTCPrefixScoreTH"), 1 / 20, note)


def padded(log_probs: Tensor) -> Tensor:
    """(..., V + 1): ESPnet gives CTC a column for the end of the sentence, which is never said."""
    return nn.functional.pad(log_probs, (0, 1), value=-1e10)


def label(module: object, name: str) -> str:
    return f"{name} of {version('espnet')}" if module else f"{name} of ESPnet"


# Joint beam


def joint_rows(head: Head, enc: Tensor, log_probs: Tensor, repeat: int) -> Iterator[Row]:
    espnet = peer("espnet.nets.batch_beam_search")
    search = espnet_search(head, log_probs) if espnet else None

    def ours(utterances: int) -> Scored:
        lens = torch.full((utterances,), FRAMES)
        given = log_probs[:utterances]
        found = head.search(enc[:utterances], lens, BEAM, ctc=given, ctc_weight=CTC_WEIGHT)
        return [(best.tokens, best.score) for [best] in found]

    for utterances, goal in ((1, 1 / 3), (BATCH, 1 / 8)):
        ways: dict[str, Callable[[], object]] = {"ours": lambda n=utterances: ours(n)}
        note = ""
        if search:
            ways["theirs"] = lambda n=utterances: [search(b, enc[b]) for b in range(n)]
            note = apart(ours(utterances), [search(b, enc[b]) for b in range(utterances)])
        case = f"{utterances} utterance{'s' * (utterances > 1)}, beam {BEAM}, {TOKENS} tokens, 6 layers of {DIM}"
        name = label(espnet, "BatchBeamSearch") + (", one at a time" if utterances > 1 else "")
        yield compared("joint CTC and attention beam", case, interleaved(ways, repeat), name, goal, note)
    together = {"ours": lambda: ours(BATCH), "theirs": lambda: [ours(1) for _ in range(BATCH)]}
    what, case = "joint CTC and attention beam", f"{BATCH} utterances together"
    yield compared(what, case, interleaved(together, repeat), "ours, one at a time", 0.45)


class GivenCtc:
    """ESPnet asks its CTC module for log-probabilities of the encoder's output; here they are given."""

    def __init__(self, log_probs: Tensor) -> None:
        self.log_probs, self.row = padded(log_probs), 0

    def log_softmax(self, _: Tensor) -> Tensor:
        return self.log_probs[self.row : self.row + 1].clone()


def espnet_search(head: Head, log_probs: Tensor) -> Callable[[int, Tensor], tuple[list[int], float]]:
    """ESPnet's decoder with our weights, in its search; takes the utterance and its encoder output (T, D)."""
    decoder = peer("espnet2.asr.decoder.transformer_decoder").TransformerDecoder(VOCAB + 1, DIM).eval()
    decoder.load_state_dict(espnet_weights(head))
    ctc = GivenCtc(log_probs)
    scorers = {"decoder": decoder, "ctc": peer("espnet.nets.scorers.ctc").CTCPrefixScorer(ctc, VOCAB)}
    search = peer("espnet.nets.batch_beam_search").BatchBeamSearch(
        beam_size=BEAM,
        weights={"decoder": 1 - CTC_WEIGHT, "ctc": CTC_WEIGHT},
        scorers=scorers,
        sos=VOCAB,
        eos=VOCAB,
        vocab_size=VOCAB + 1,
        pre_beam_score_key="full",
    )

    @torch.no_grad()
    def run(row: int, enc: Tensor) -> tuple[list[int], float]:
        ctc.row = row
        best = search(enc)[0]
        return best.yseq[1:-1].tolist(), float(best.score)

    return run


def espnet_weights(head: Head) -> dict[str, Tensor]:
    """Our decoder's weights under ESPnet's names."""
    ours, found = head.decoder.state_dict(), {}
    names = {"self_norm": "norm1", "cross_norm": "norm2", "feedforward_norm": "norm3"}
    names |= {"self_out": "self_attn.linear_out", "cross_out": "src_attn.linear_out", "cross_q": "src_attn.linear_q"}
    names |= {"feedforward.0": "feed_forward.w_1", "feedforward.3": "feed_forward.w_2"}
    names |= {"embedding": "embed.0", "norm": "after_norm", "output": "output_layer"}
    stacked = {"self_qkv": ("self_attn", "qkv"), "cross_kv": ("src_attn", "kv")}
    for name, value in ours.items():
        prefix = "decoders." + name.split(".")[1] + "." if name.startswith("layers.") else ""
        inside, _, kind = (name.split(".", 2)[2] if prefix else name).rpartition(".")
        if inside in stacked:
            module, parts = stacked[inside]
            for part, piece in zip(parts, value.chunk(len(parts)), strict=True):
                found[f"{prefix}{module}.linear_{part}.{kind}"] = piece
        else:
            found[f"{prefix}{names[inside]}.{kind}"] = value
    return found


def apart(ours: Scored, theirs: Scored) -> str:
    """How many best hypotheses are the same, and how far their scores are apart.

    Raises:
        AssertionError: the same hypothesis has another score, or ours is another one that is worse.
    """
    same = [(a[1], b[1]) for a, b in zip(ours, theirs, strict=True) if a[0] == b[0]]
    furthest = max((abs(a - b) for a, b in same), default=0.0)
    worse = [b for a, b in zip(ours, theirs, strict=True) if a[1] < b[1] - SAME]
    assert furthest <= SAME and not worse, f"scores {furthest:.1e} apart; ours is worse than {worse}"
    return f"{len(same)} of {len(ours)} best the same, scores {furthest:.0e} apart"


if __name__ == "__main__":
    main(__doc__, rows)
