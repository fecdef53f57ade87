# SPDX-License-Identifier: Apache-2.0
"""Learn how fast heat spreads: fit a module's diffusivity to observed diffusion.

python examples/heat_conduction_module.py [--steps 150] [--compile]
"""

import argparse

import torch
from torch import Tensor, nn
from torch.nn import functional

from rsvheat.ops import heat_conduction


class HeatConduction(nn.Module):
    """Diffuse NHWC features with one learned diffusivity a channel, in pixel**2."""

    def __init__(self, channels: int) -> None:
        """Start at a diffusivity of about 0.7 pixel**2."""
        super().__init__()
        self.raw = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Return ``x``, (B, H, W, C), one time step later."""
        return heat_conduction(x, functional.softplus(self.raw))  # k must not be negative


def main() -> None:
    """Train on noise that was diffused by known amounts, and compare what was learned."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--compile", action="store_true", help="train through torch.compile")
    arguments = parser.parse_args()
    torch.manual_seed(0)

    true_k = torch.tensor([0.1, 0.3, 1.0, 3.0])
    before = torch.randn(4, 32, 32, 4)
    after = heat_conduction(before, true_k)
    module = HeatConduction(channels=4)
    model = torch.compile(module) if arguments.compile else module
    optimizer = torch.optim.Adam(module.parameters(), lr=0.1)
    for step in range(arguments.steps):
        loss = functional.mse_loss(model(before), after)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step in (0, arguments.steps - 1):
            print(f"step {step + 1}: loss {loss.item():.2e}")
    learned = functional.softplus(module.raw).tolist()
    print("true k:   ", " ".join(f"{k:.3f}" for k in true_k.tolist()))
    print("learned k:", " ".join(f"{k:.3f}" for k in learned))


if __name__ == "__main__":
    main()
