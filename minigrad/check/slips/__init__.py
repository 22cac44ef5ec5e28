"""The mistakes that people make in backward passes, and the searches for them.

A *search* is a function of a `Case`, the case of one wrong gradient, and yields explanations: mistakes
that reproduce that gradient. This is the list of all searches, in the order in which they are made.
"""

from collections.abc import Callable, Iterator

from minigrad.check.case import Case, Explanation
from minigrad.check.slips import (
    constants,
    derivatives,
    formulas,
    loops,
    moves,
    names,
    paths,
    products,
    several,
    shapes,
    sums,
    values,
    whole,
)

Search = Callable[[Case], Iterator[Explanation]]

SINGLE: tuple[Search, ...] = (
    whole.whole, whole.upstream, paths.sites, paths.constants, values.factors, derivatives.derivatives,
    values.mistaken, shapes.sums, products.products, moves.turned, moves.cut_out, shapes.added_up,
    paths.overwritten, derivatives.spread, values.too_late,
)  # fmt: skip
"""The searches for single slips, all of which are made."""

FAR_FETCHED: tuple[Search, ...] = (
    loops.everywhere, names.names, moves.misplaced, shapes.nothing_summed, constants.replays, constants.eps_once,
    names.left_out, constants.other_axes, several.pairs, formulas.formulas, sums.sums_of_values, several.combinations,
)  # fmt: skip
"""The others, which take longer: the first that finds something is the last."""
