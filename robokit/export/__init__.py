"""From a trained policy to one ONNX file, written only when it equals the policy.

May import: learning and below, the controller.
"""

from typing import TYPE_CHECKING

from robokit.faces import face

if TYPE_CHECKING:
    from robokit.export.bounds import resolve as resolve, write_filter as write_filter
    from robokit.export.card import write_card as write_card
    from robokit.export.file import Exported as Exported
    from robokit.export.gate import Parity as Parity
    from robokit.export.write import Written as Written, export as export

__getattr__, __dir__ = face(__name__, __file__)
