"""Train with Lightning Fabric: ``fabric_loop.py SHARDS FOLDER STOP [resume]``.

Two epochs; after STOP steps the state is saved and the run ends.
"""

import sys
import warnings
from typing import Any

from seen import loss_of, make_loader, make_model, note

from cinic_shards.loader.bench import import_torchvision

import_torchvision()  # lightning's own import fails with a CPU build of torch
warnings.simplefilter("ignore")

import torch  # noqa: E402
from lightning.fabric import Fabric  # noqa: E402

shards, folder, stop, *resume = sys.argv[1:]
fabric = Fabric(accelerator="cpu", devices=1)
fabric.launch()
model = make_model()
model, optimizer = fabric.setup(model, torch.optim.SGD(model.parameters(), 0.01))
loader = fabric.setup_dataloaders(make_loader(shards).as_dataloader())
state: dict[str, Any] = {"model": model, "optimizer": optimizer, "loader": loader, "step": 0}
if resume:
    fabric.load(f"{folder}/state.ckpt", state)
while state["step"] < 2 * len(loader):
    for batch in loader:
        note(batch)
        optimizer.zero_grad()
        fabric.backward(loss_of(model, batch))
        optimizer.step()
        state["step"] += 1
        if state["step"] == int(stop):
            fabric.save(f"{folder}/state.ckpt", state)
            sys.exit()
