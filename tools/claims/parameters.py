"""Have the seven published models the published number of parameters, and does each take a step?

Parameters are in millions. After one step of SGD on four random images the loss must be finite and
every parameter must have a gradient other than zero.
"""

import torch
from claim import Claim

from benchmarks.training.models import PUBLISHED_PARAMETERS, build, num_parameters

BAR_MILLIONS = 0.1


def learns(name: str) -> bool:
    """Whether one step reaches every parameter."""
    torch.manual_seed(0)
    model = build(name)
    scores = model(torch.randn(4, 3, 32, 32))
    loss = torch.nn.functional.cross_entropy(scores, torch.arange(4))
    loss.backward()  # type: ignore[no-untyped-call]
    gradients = [parameter.grad for parameter in model.parameters()]
    reached = [gradient is not None and bool(gradient.any()) for gradient in gradients]
    return bool(loss.isfinite()) and all(reached)


def main() -> None:
    """Run the claim."""
    with Claim(__doc__ or "") as claim:
        published = PUBLISHED_PARAMETERS
        found = {name: num_parameters(build(name)) / 1e6 for name in published}
        furthest = max(published, key=lambda name: abs(found[name] - published[name]))
        reached = {name: learns(name) for name in published}
        difference = abs(found[furthest] - published[furthest])
        claim.report(
            figure={"furthest from the published": furthest, "by": round(difference, 3)},
            bar=f"within {BAR_MILLIONS} million, and a step reaches every parameter",
            holds=difference < BAR_MILLIONS and all(reached.values()),
            millions={
                name: [round(count, 3), published[name], reached[name]]
                for name, count in found.items()
            },
        )


if __name__ == "__main__":
    main()
