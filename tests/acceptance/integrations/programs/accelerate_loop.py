"""Train with Accelerate: ``accelerate_loop.py SHARDS FOLDER HOW STOP [resume]``.

Two epochs; after STOP steps ``save_state`` is called and the run ends. HOW is the way to resume:
``state`` (``load_state`` restores the loader), ``register`` (a loader that is not prepared, but
registered), or ``skip`` (``skip_first_batches``, as for any other loader).
"""

import os
import sys

import torch
from accelerate import Accelerator
from seen import loss_of, make_loader, make_model, note, say

shards, folder, how, stop, *resume = sys.argv[1:]
STEPS_TO_ACCUMULATE = 4
accelerator = Accelerator(cpu=True, gradient_accumulation_steps=STEPS_TO_ACCUMULATE)
rank = accelerator.process_index
model = make_model()
ours = make_loader(shards)
model, optimizer = accelerator.prepare(model, torch.optim.SGD(model.parameters(), 0.01))
if how == "register":
    accelerator.register_for_checkpointing(ours)
    loader = accelerator.prepare(ours)
else:
    loader = accelerator.prepare(ours.as_dataloader())
step, num_updates, current = 0, 0, loader
if resume:
    accelerator.load_state(folder)
    step = int(stop)
    if how == "skip":
        loader.set_epoch(step // len(loader))
        current = accelerator.skip_first_batches(loader, step % len(loader))
while step < 2 * len(loader):
    for batch in current:
        with accelerator.accumulate(model):
            note(batch, rank)
            accelerator.backward(loss_of(model, batch))
            num_updates += accelerator.sync_gradients
            optimizer.step()
            optimizer.zero_grad()
        step += 1
        if step == int(stop) and not resume:
            accelerator.save_state(folder)
            say("updates", num_updates)
            sys.stdout.flush()
            os._exit(0)
    current = loader
say("updates", num_updates)
accelerator.end_training()
