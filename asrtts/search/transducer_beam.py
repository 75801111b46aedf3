"""Transducer beam search, batched over utterances, alignment-length synchronous (Saon et al. 2020).

After i steps every live hypothesis has used i edges of the lattice: with u tokens it stands at frame i - u. So two
hypotheses with the same tokens stand at the same node, and their sum is exact: prefix y at frame t comes by a blank
from (y, t-1) and by its last token from (y without it, t); both are added before anything is dropped. A score is thus
log P(tokens) over all alignments that the beam kept, and over all there are if the beam holds every prefix.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from asrtts.search.hypothesis import Hypothesis
from asrtts.search.inputs import check_lens
from asrtts.search.language_model import Ahead, Fusion, State
from asrtts.search.transducer_greedy import Join, Predict

NEVER = -float("inf")
NO_TOKEN = -1
NEGLIGIBLE = 20.0  # an utterance ends when all that is live has less than exp(-20) of its best result


def transducer_beam(
    enc: Tensor,
    enc_lens: Tensor,
    predict: Predict,
    join: Join,
    state: State,
    beam: int = 10,
    nbest: int = 1,
    blank_id: int = 0,
    max_symbols_per_frame: int = 5,
    lm: Fusion | None = None,
) -> list[list[Hypothesis]]:
    """Up to `nbest` hypotheses an utterance, best first; frames and confidences are those of its strongest alignment.

    Args:
        enc: (B, T, J), what `join` takes.
        state: of the predictor before anything was said; its tensors are (B, ...).
        max_symbols_per_frame: an utterance has at most this times its frames of tokens, so that every search ends.
        lm: what language models add to each token and to the end. All alignments of a prefix get the same, so the sum
            over them stays exact.

    Raises:
        ValueError: lengths beyond the frames; with the batch index and the value.
    """
    check_lens(enc_lens, *enc.shape[:2])
    lens = enc_lens.to(enc.device)
    live, done = _Entries.none(len(enc), beam, enc.device), _Entries.none(len(enc), nbest, enc.device)
    live.score[:, 0] = torch.where(lens > 0, 0.0, NEVER)
    done.score[:, 0] = torch.where(lens > 0, NEVER, 0.0)  # nothing was heard: the empty hypothesis is certain
    pred, state = predict(torch.full_like(lens, blank_id), state)
    pred, *state = (x.repeat_interleave(beam, 0) for x in (pred, *state))  # (B * beam, ...)

    ahead = Ahead(lm, len(enc) * beam, enc.device) if lm else None
    if ahead:
        done.score[:, 0] += ahead.scores[::beam, -1]
    step = 0
    taken = torch.zeros_like(lens)
    while len(rows := (live.score > NEVER).flatten().nonzero().squeeze(1)):
        frame = step - live.length
        taken += (live.score > NEVER).any(1)
        log_probs = join(enc[rows // beam, frame.take(rows)], pred[rows]).float().log_softmax(-1)  # (N, V)
        stay = live.with_score(live.score.put(rows, live.score.take(rows) + log_probs[:, blank_id]))
        log_probs[:, blank_id] = NEVER
        log_probs[live.length.take(rows) >= max_symbols_per_frame * lens[rows // beam]] = NEVER
        fused = log_probs + ahead.scores[rows, :-1] if ahead else log_probs
        _merge(stay, live, frame, rows, fused, log_probs)

        ends = frame == lens[:, None] - 1
        if (ends & (stay.score > NEVER)).any():
            whole = stay.score + ahead.scores[:, -1].view_as(stay.score) if ahead else stay.score
            done = done.best_of(stay.with_score(whole.masked_fill(~ends, NEVER)))
            stay.score[ends] = NEVER
        live, parent, token = _advance(stay, live, frame, rows, fused, log_probs)
        spoke = (token != NO_TOKEN).nonzero().squeeze(1)
        hope = live.score.logsumexp(1)
        if ahead:
            ahead.reorder(parent)
            if len(spoke):
                ahead.step(spoke, token[spoke])
            hope = hope + ahead.rise(live.score > NEVER)
        worth = torch.maximum(done.score[:, -1], done.score[:, 0] - NEGLIGIBLE)
        live.score[hope <= worth] = NEVER

        pred, *state = (x[parent] for x in (pred, *state))
        if len(spoke):
            pred[spoke], after = predict(token[spoke], tuple(s[spoke] for s in state))
            for old, new in zip(state, after, strict=True):
                old[spoke] = new
        step += 1
    found = done.hypotheses()
    for hypotheses, steps in zip(found, taken.tolist(), strict=True):
        for hypothesis in hypotheses:
            hypothesis.steps = steps
    return found


@dataclass
class _Entries:
    """K prefixes for each of B utterances; `score` is -inf where there is none. Unused places of `tokens` hold -1."""

    score: Tensor  # (B, K) float64
    length: Tensor  # (B, K)
    tokens: Tensor  # (B, K, L)
    frames: Tensor  # (B, K, L)
    log_probs: Tensor  # (B, K, L) float64, of each token where it was emitted

    @classmethod
    def none(cls, batch: int, count: int, device: torch.device) -> _Entries:
        def whole(*shape: int) -> Tensor:
            return torch.full(shape, NO_TOKEN, dtype=torch.int64, device=device)

        shape = (batch, count, 8)
        score = torch.full(shape[:2], NEVER, dtype=torch.float64, device=device)
        log_probs = torch.zeros(shape, dtype=torch.float64, device=device)
        return cls(score, torch.zeros_like(whole(batch, count)), whole(*shape), whole(*shape), log_probs)

    def with_score(self, score: Tensor) -> _Entries:
        return _Entries(score, self.length, self.tokens, self.frames, self.log_probs)

    def widened(self, places: int) -> _Entries:
        """With room for at least so many tokens."""
        more = max(0, places - self.tokens.shape[2])
        tokens, frames = (F.pad(x, (0, more), value=NO_TOKEN) for x in (self.tokens, self.frames))
        return _Entries(self.score, self.length, tokens, frames, F.pad(self.log_probs, (0, more)))

    def take(self, index: Tensor) -> _Entries:
        """Entries `index` (B, K') of each utterance."""
        deep = index[:, :, None].expand(-1, -1, self.tokens.shape[2])
        flat = (x.gather(1, index) for x in (self.score, self.length))
        return _Entries(*flat, *(x.gather(1, deep) for x in (self.tokens, self.frames, self.log_probs)))

    def beside(self, other: _Entries) -> _Entries:
        places = max(self.tokens.shape[2], other.tokens.shape[2])
        pairs = zip(vars(self.widened(places)).values(), vars(other.widened(places)).values(), strict=True)
        return _Entries(*(torch.cat(pair, dim=1) for pair in pairs))

    def best_of(self, other: _Entries) -> _Entries:
        both = self.beside(other)
        return both.take(both.score.topk(self.score.shape[1], dim=1).indices)

    def append(self, where: Tensor, token: Tensor, frame: Tensor, log_prob: Tensor) -> _Entries:
        """One token more at `where`, a pair of index tensors; this entry's tensors are changed."""
        grown = self.widened(2 * self.tokens.shape[2] if int(self.length.max()) == self.tokens.shape[2] else 0)
        place = (*where, grown.length[where])
        grown.tokens[place], grown.frames[place], grown.log_probs[place] = token, frame, log_prob
        grown.length[where] += 1
        return grown

    def hypotheses(self) -> list[list[Hypothesis]]:
        found = []
        columns = (x.tolist() for x in (self.score, self.length, self.tokens, self.frames, self.log_probs.exp()))
        for entries in zip(*columns, strict=True):
            kept = [
                Hypothesis(tokens[:n], score, frames[:n], confidences[:n])
                for score, n, tokens, frames, confidences in zip(*entries, strict=True)
                if score > NEVER
            ]
            found.append(kept or [Hypothesis([], NEVER)])  # a model that forbids everything
        return found


def _merge(stay: _Entries, live: _Entries, frame: Tensor, rows: Tensor, fused: Tensor, log_probs: Tensor) -> None:
    """Add to each entry of `stay` what reaches the same node by its last token, and strike that edge from `fused`.

    At most one live entry is an entry's prefix without the last token, since no two entries have the same tokens.
    """
    beam = live.score.shape[1]
    last = (live.length - 1).clamp(min=0)[:, :, None]
    shorter = live.tokens.scatter(2, last, NO_TOKEN)
    alive = live.score > NEVER
    is_parent = (shorter[:, :, None] == live.tokens[:, None]).all(-1) & (live.length > 0)[:, :, None]
    b, child, parent = (is_parent & alive[:, :, None] & alive[:, None]).nonzero(as_tuple=True)
    if not len(b):
        return
    row = torch.searchsorted(rows, b * beam + parent)
    token = live.tokens.gather(2, last).squeeze(2)[b, child]
    edge, log_prob = fused[row, token].double(), log_probs[row, token].double()
    fused[row, token] = NEVER
    by_token, by_blank = live.score[b, parent] + edge, stay.score[b, child]
    stay.score[b, child] = torch.logaddexp(by_token, by_blank)

    stronger = by_token > by_blank  # then this entry's times are those of its parent, and now
    b, child, parent, log_prob = (x[stronger] for x in (b, child, parent, log_prob))
    place = (b, child, live.length[b, child] - 1)
    stay.frames, stay.log_probs = stay.frames.clone(), stay.log_probs.clone()
    stay.frames[b, child], stay.log_probs[b, child] = live.frames[b, parent], live.log_probs[b, parent]
    stay.frames[place], stay.log_probs[place] = frame[b, parent], log_prob


def _advance(
    stay: _Entries, live: _Entries, frame: Tensor, rows: Tensor, fused: Tensor, log_probs: Tensor
) -> tuple[_Entries, Tensor, Tensor]:
    """The best K that go on by a blank or a token: entries, their parents' rows (B*K,) and tokens (B*K,) or -1."""
    batch, beam = live.score.shape
    edges, tokens = fused.topk(min(beam, fused.shape[1]), dim=1)  # no more of one parent can survive
    shape = (batch * beam, edges.shape[1])
    all_edges = torch.full(shape, NEVER, dtype=torch.float64, device=edges.device).index_copy(0, rows, edges.double())
    all_tokens = torch.full(shape, NO_TOKEN, device=edges.device).index_copy(0, rows, tokens)
    by_token = (live.score.view(-1, 1) + all_edges).view(batch, -1)  # (B, K * edges)

    score, chosen = torch.cat([stay.score, by_token], dim=1).topk(beam, dim=1)
    edge = chosen - beam  # negative: a blank
    parent = torch.where(edge < 0, chosen, edge.clamp(min=0) // shape[1])
    spoke = (edge >= 0) & (score > NEVER)
    best = stay.beside(live).take(torch.where(spoke, parent + beam, parent)).with_score(score)
    where = spoke.nonzero(as_tuple=True)
    token = all_tokens.view(batch, -1).gather(1, edge.clamp(min=0)).masked_fill(~spoke, NO_TOKEN)
    came_from = torch.arange(batch, device=parent.device)[:, None] * beam + parent
    log_prob = log_probs[torch.searchsorted(rows, came_from[where]), token[where]].double()
    best = best.append(where, token[where], frame.gather(1, parent)[where], log_prob)
    return best, came_from.flatten(), token.flatten()
