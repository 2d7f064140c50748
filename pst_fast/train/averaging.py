"""An exponential moving average of a network's weights, which is what is evaluated and kept."""

from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn


class Averaged:
    """A network and, with a decay, the average of its states after each step (batch norm's statistics too).

    Args:
        model: The network that is trained.
        decay: Share of the average that stays at each step; 0: none is kept, and ``result`` is the network.

    Attributes:
        result: The network to evaluate and to keep.
        everything: All that a roll-back has to bring back: the network and the average.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self._model = model
        self._average: AveragedModel | None = None
        self.result = self.everything = model
        if decay:
            average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=True)
            self._average, self.result = average, average.module
            self.everything = nn.ModuleList([model, average])

    def update(self) -> None:
        """Take in the network as it is; call after each step."""
        if self._average is not None:
            self._average.update_parameters(self._model)
