"""A training run of two processes; run by `test_ddp.py`, not by itself."""

import os
import sys
from pathlib import Path

import torch
from transformers import AutoTokenizer

sys.path.insert(0, str(Path(__file__).parent))

from test_callback import Logger, make_trainer

from conftest import make_network
from mnemoscope.embedded import model_path
from mnemoscope.training.callback import MemorizationCallback
from mnemoscope.training.watch import make_canaries
from mnemoscope.training.windows import WatchedWindows


def main(rank: int, folder: Path, port: int) -> None:
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2"}
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank)}
    torch.set_num_threads(1)
    tokenizer = AutoTokenizer.from_pretrained(model_path())
    texts = make_canaries(tokenizer, 4, seed=0)
    ids = [tokenizer(text)["input_ids"][:64] for text in texts]
    network = make_network(tokenizer)
    rows = [{"input_ids": one, "labels": one} for one in ids]
    trainer = make_trainer(
        network, rows, folder, per_device_train_batch_size=2, max_steps=200, ddp_backend="gloo"
    )
    logger = Logger()
    windows = WatchedWindows.from_texts(texts, tokenizer, source="canary", stride=4096)
    trainer.add_callback(logger)
    trainer.add_callback(MemorizationCallback(trainer, windows, every=5, stop_recall=0.4))
    trainer.train()
    seen = [step for step, logs in logger.logs if "memorization/recall" in logs]
    weights = sum(value.double().sum().item() for value in network.state_dict().values())
    (folder / f"rank-{rank}.txt").write_text(
        f"{torch.distributed.get_world_size()} {trainer.state.global_step} {weights!r} {len(seen)}"
    )


if __name__ == "__main__":  # forked, so that imports are done once
    given = globals()["FOLDER"], globals()["PORT"]
    torch.multiprocessing.start_processes(main, args=given, nprocs=2, start_method="fork")
