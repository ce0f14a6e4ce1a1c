"""The methods, and what goes around one, by name. A new one is a file beside this one, an import, and a row."""

from mtrl.aggregators.aligned_mtl import AlignedMTL
from mtrl.aggregators.base import Aggregator, GramianAggregator, LossAggregator
from mtrl.aggregators.cagrad import CAGrad
from mtrl.aggregators.config import ConFIG
from mtrl.aggregators.conicgrad import ConicGrad
from mtrl.aggregators.db_mtl import DBMTL
from mtrl.aggregators.dwa import DWA
from mtrl.aggregators.fairgrad import FairGrad
from mtrl.aggregators.famo import FAMO
from mtrl.aggregators.gls import GLS
from mtrl.aggregators.graddrop import GradDrop
from mtrl.aggregators.gradnorm import GradNorm
from mtrl.aggregators.gradvac import GradVac
from mtrl.aggregators.imtl_g import IMTLG
from mtrl.aggregators.imtl_l import IMTLL
from mtrl.aggregators.mean import Mean
from mtrl.aggregators.mgda import MGDA
from mtrl.aggregators.mocograd import MoCoGrad
from mtrl.aggregators.modo import MoDo
from mtrl.aggregators.nash_mtl import NashMTL
from mtrl.aggregators.pcgrad import PCGrad
from mtrl.aggregators.pcgrad_direction import PCGradDirection
from mtrl.aggregators.pcgrad_fixed import PCGradFixed
from mtrl.aggregators.pcgrad_magnitude import PCGradMagnitude
from mtrl.aggregators.rlw import RLW
from mtrl.aggregators.scheduled import Scheduled
from mtrl.aggregators.sdmgrad import SDMGrad
from mtrl.aggregators.smoothed import Smoothed
from mtrl.aggregators.stch import STCH
from mtrl.aggregators.uncertainty import Uncertainty
from mtrl.aggregators.upgrad import UPGrad

AGGREGATORS: dict[str, type[Aggregator]] = {
    "mean": Mean,
    "pcgrad": PCGrad,
    "pcgrad-direction": PCGradDirection,
    "pcgrad-magnitude": PCGradMagnitude,
    "pcgrad-fixed": PCGradFixed,
    "gradvac": GradVac,
    "mocograd": MoCoGrad,
    "graddrop": GradDrop,
    "cagrad": CAGrad,
    "conicgrad": ConicGrad,
    "mgda": MGDA,
    "sdmgrad": SDMGrad,
    "modo": MoDo,
    "imtl_g": IMTLG,
    "config": ConFIG,
    "nash_mtl": NashMTL,
    "fairgrad": FairGrad,
    "upgrad": UPGrad,
    "aligned_mtl": AlignedMTL,
    "gradnorm": GradNorm,
    "famo": FAMO,
    "db_mtl": DBMTL,
}

WRAPPERS: dict[str, type[GramianAggregator]] = {"smoothed": Smoothed, "scheduled": Scheduled}  # WRAPPER:METHOD

# of the losses by their values, most for those that are never negative; alone, or before a method: WEIGHTING:METHOD
WEIGHTINGS: dict[str, type[LossAggregator]] = {
    "uncertainty": Uncertainty,
    "dwa": DWA,
    "rlw": RLW,
    "gls": GLS,
    "imtl_l": IMTLL,
    "stch": STCH,
}
