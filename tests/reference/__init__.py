"""One NumPy definition per op, for clarity only: float64 for floats, exact integer arithmetic for integers.

Layouts are the engine's: images (N, H, W, C), conv weights (O, KH, KW, I / groups). Contractions keep integer inputs
integers (int64), so the same text defines the int8 ops. Functions of float32 inputs give float64: the answer before the
last rounding.
"""

from tests.reference.attention import *
from tests.reference.common import *
from tests.reference.conv import *
from tests.reference.ctc import *
from tests.reference.elementwise import *
from tests.reference.embedding import *
from tests.reference.embedding_bag import *
from tests.reference.loss import *
from tests.reference.matmul import *
from tests.reference.norm import *
from tests.reference.optim import *
from tests.reference.pool import *
from tests.reference.quant import *
from tests.reference.random import *
from tests.reference.recurrent import *
from tests.reference.reduce import *
from tests.reference.softmax import *
from tests.reference.sparse import *
from tests.reference.upsample import *
from tests.reference.winograd import *
