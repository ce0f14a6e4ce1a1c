"""The rules of single layers: the T gradients of T backward passes, to the last digits, whatever its options."""

import pytest
import torch
from torch import nn

import mtrl

T, B = 3, 2
PICTURES, NAMES = torch.randn(T * B, 4, 6, 5, dtype=torch.float64), torch.randint(7, (T * B, 3))


class WithTail(nn.Module):
    """The layer, and something that makes the gradients at its output differ."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, rows):
        return torch.sin(self.layer(rows) * 1.7)


LAYERS = {
    "conv2d": (lambda: nn.Conv2d(4, 3, 3), PICTURES),
    "conv2d, strides": (lambda: nn.Conv2d(4, 6, (3, 2), stride=2, padding=1, dilation=(1, 2), groups=2), PICTURES),
    "conv2d, same": (lambda: nn.Conv2d(4, 3, (3, 2), padding="same", bias=False), PICTURES),
    "conv2d, valid": (lambda: nn.Conv2d(4, 3, 2, padding="valid"), PICTURES),
    "conv2d, circular": (lambda: nn.Conv2d(4, 3, 3, padding=(1, 2), padding_mode="circular"), PICTURES),
    "conv2d, reflected": (lambda: nn.Conv2d(4, 3, 3, padding=2, padding_mode="reflect", stride=2), PICTURES),
    "group norm": (lambda: nn.GroupNorm(2, 4), PICTURES),
    "group norm of vectors": (lambda: nn.GroupNorm(2, 4), PICTURES[..., 0, 0]),
    "embedding": (lambda: nn.Embedding(7, 4), NAMES),
    "embedding of a name": (lambda: nn.Embedding(7, 4), NAMES[:, 0]),
    "embedding, padded": (lambda: nn.Embedding(7, 4, padding_idx=2), NAMES),
    "linear of pictures": (lambda: nn.Linear(5, 2), PICTURES),
    "layer norm of pictures": (lambda: nn.LayerNorm((6, 5)), PICTURES),
}


@pytest.mark.filterwarnings("ignore:Using padding=.same.")
@pytest.mark.parametrize("name", LAYERS)
def test_a_rule_gives_the_gradients_of_one_backward_pass_per_task(name):
    torch.manual_seed(0)
    make, rows = LAYERS[name]
    net = WithTail(make()).double()
    for parameter in net.parameters():
        nn.init.normal_(parameter)
    with mtrl.record(net, T) as tape:
        outputs = net(rows)
        losses = outputs.square().reshape(T, -1).mean(1)
    expected = mtrl.per_task_gradients(losses, net.parameters())
    given = torch.autograd.grad(losses.sum(), tape.outputs)
    found = torch.cat([piece.flatten(1) for piece in tape.task_gradients(given)], dim=1)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    "layer", [nn.Embedding(7, 4, sparse=True), nn.Embedding(7, 4, scale_grad_by_freq=True)], ids=["sparse", "counted"]
)
def test_options_that_no_rule_covers_are_refused(layer):
    with pytest.raises(TypeError, match="has no rule for per-task gradients"), mtrl.record(layer, T):
        pass


def test_a_single_picture_is_no_block_of_rows():
    layer = nn.Conv2d(3, 2, 3)
    with pytest.raises(ValueError, match="expected rows in 3 equal task blocks"), mtrl.record(layer, T):
        layer(torch.zeros(3, 5, 5))
