"""Films, MuJoCo's window, plots.

May import: training and below.
"""

from typing import TYPE_CHECKING

from robokit.faces import face

if TYPE_CHECKING:
    from robokit.show.film import write_film as write_film
    from robokit.show.plots import draw as draw
    from robokit.show.window import watch as watch

__getattr__, __dir__ = face(__name__, __file__)
