"""The laws, in the order in which they are tried."""

from . import conduct, fields, flow_conduct, flows, losses, paths, schedules, velocities, walks
from .law import Law

__all__ = ["FLOW_LAWS", "LAWS", "Law", "law"]

_ALL = (*conduct.LAWS, *schedules.LAWS, *paths.LAWS, *velocities.LAWS, *losses.LAWS, *walks.LAWS)
_FIRST = ("build", "answers")

LAWS: tuple[Law, ...] = (
    *(one for one in _ALL if one.id.startswith(_FIRST)),
    *(one for one in _ALL if not one.draws and not one.id.startswith(_FIRST)),
    *(one for one in _ALL if one.draws),
)
"""What an answer is, then what is computed, then what is drawn: the quick ones first."""

FLOW_LAWS: tuple[Law, ...] = (*flow_conduct.LAWS, *flows.LAWS, *fields.LAWS, *flow_conduct.BAD_INPUT)
"""Those of continuous implementations; none of them draws."""


def law(id: str, *, among: tuple[Law, ...] = LAWS) -> Law:
    """The law of an id; ValueError names those that there are.

    >>> law("conservation").formula
    'sum_x u_t^i(x, z) = 0'
    """
    for one in among:
        if one.id == id:
            return one
    raise ValueError(f"laws: expected ids among {', '.join(one.id for one in among)}, got {id!r}")
