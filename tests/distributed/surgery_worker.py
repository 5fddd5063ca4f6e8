"""Run by test_surgery_of_wrapped_models.py: the tools on what DDP and FSDP make of a model."""

import sys
import warnings

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

import normwise as nw

X = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
REPLACING = {
    "fold": lambda model: nw.fold(model, X),
    "swap": lambda model: nw.swap(model, "group"),
    "unsync": lambda model: nw.unsync(model),
    "normalizer_free": lambda model: nw.normalizer_free(model, X),
}


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU())


def sharded():
    model = net()
    fully_shard(model, mesh=init_device_mesh("cpu", (dist.get_world_size(),)))
    return model


def check_refused(model, said):
    before = {name: id(module) for name, module in model.named_modules()}
    for tool, call in REPLACING.items():
        with pytest.raises(TypeError, match=f"{tool}: the model .*{said}"):
            call(model)
    assert {name: id(module) for name, module in model.named_modules()} == before


def check_read(wrapped):
    """What needs no new module goes through the wrapper: as on the plain model, of both processes' samples."""
    rank = dist.get_rank()
    mine = X[:1] if rank == 0 else X[1:]
    nw.recalibrate(wrapped, [mine])
    alone = dist.new_group([rank])
    plain = net()
    nw.recalibrate(plain, [X], process_group=alone)
    found = {name.removeprefix("module."): buffer for name, buffer in wrapped.named_buffers()}
    torch.testing.assert_close(found["1.running_mean"], plain[1].running_mean)
    torch.testing.assert_close(found["1.running_var"], plain[1].running_var)
    assert nw.freeze(wrapped) == 1
    assert not nw.doctor(wrapped, target="onnx").errors


def main():
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", message="recalibrate: ", category=UserWarning)
    dist.init_process_group("gloo")
    check_refused(nn.parallel.DistributedDataParallel(net()), "pass its attribute module, and wrap the result again")
    check_refused(sharded(), "pass the model from before sharding")
    check_read(nn.parallel.DistributedDataParallel(net()))
    check_read(sharded())
    rank = dist.get_rank()
    dist.barrier()
    dist.destroy_process_group()
    sys.stdout.write(f"rank {rank}: all properties hold\n")


if __name__ == "__main__":
    main()
