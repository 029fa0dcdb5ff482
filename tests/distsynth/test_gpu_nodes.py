"""What goes wrong on GPU nodes, without a GPU: on torch as it is here, on the CPU's half precision, and with the errors that CUDA and NCCL raise."""

import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel
from workbench import CPU

from distsynth.bench.synthetic import method_of, noise
from distsynth.config import compose
from distsynth.data.batch import Batch
from distsynth.networks.disco import DiscoGenerator
from distsynth.networks.resnet import ResNet
from distsynth.networks.segmentor import Segmentor
from distsynth.networks.stargan import Generator
from distsynth.networks.unet import UNet
from distsynth.networks.vae import Autoencoders
from distsynth.ranks import position
from distsynth.ranks.device import refuse_shared, unsupported
from distsynth.ranks.heartbeat import Verdict
from distsynth.ranks.watchdog import Watchdog
from distsynth.ranks.world import cause, leave, lost_peer, unfit, world
from distsynth.run_directory import RunDirectory
from distsynth.settings import LimitSettings
from distsynth.train import reason, transient
from distsynth.training.engine import Engine
from preprocess.shared.errors import SettingError

needs_no_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="here torch can use a GPU")

# -- a job that holds GPUs -------------------------------------------------------------------------------------------------


def slurm(monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]) -> None:
    for name in (
        "SLURM_STEP_GPUS",
        "SLURM_JOB_GPUS",
        "SLURM_GPUS_ON_NODE",
        "CUDA_VISIBLE_DEVICES",
        "GPU_DEVICE_ORDINAL",
        "SLURM_JOB_ID",
    ):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)


@needs_no_gpu
@pytest.mark.parametrize("held", [
    {"SLURM_JOB_GPUS": "0,1"}, {"SLURM_STEP_GPUS": "2"}, {"SLURM_GPUS_ON_NODE": "1"},
    {"SLURM_JOB_ID": "7", "CUDA_VISIBLE_DEVICES": "0", "GPU_DEVICE_ORDINAL": "0"},
])  # fmt: skip
def test_a_job_that_holds_gpus_does_not_train_on_the_cpu(monkeypatch: pytest.MonkeyPatch, held: dict[str, str]) -> None:
    slurm(monkeypatch, held)
    with pytest.raises(
        SettingError, match=r"^the job holds GPUs \(.*=.*\) but torch .*: install a CUDA build .* or set train\.device=cpu$"
    ):
        world("auto", LimitSettings()).__enter__()
    with world("cpu", LimitSettings()) as ranks:
        assert ranks.device.type == "cpu"


@needs_no_gpu
@pytest.mark.parametrize("free", [
    {}, {"SLURM_JOB_ID": "7", "SLURM_JOB_GPUS": "", "SLURM_GPUS_ON_NODE": "0"}, {"SLURM_JOB_ID": "7", "CUDA_VISIBLE_DEVICES": "0"},
    {"SLURM_JOB_ID": "7", "CUDA_VISIBLE_DEVICES": "NoDevFiles", "GPU_DEVICE_ORDINAL": "NoDevFiles"},
])  # fmt: skip
def test_a_job_without_gpus_trains_on_the_cpu(monkeypatch: pytest.MonkeyPatch, free: dict[str, str]) -> None:
    slurm(monkeypatch, free)
    with world("auto", LimitSettings()) as ranks:
        assert ranks.device.type == "cpu"


# -- the build and the card ------------------------------------------------------------------------------------------------

CUDA_13 = ["sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120", "compute_120"]


@pytest.mark.parametrize(("built", "card", "fits"), [
    (CUDA_13, (7, 0), False), (CUDA_13, (7, 5), True), (CUDA_13, (8, 0), True),
    (CUDA_13, (8, 9), True),  # binaries of the same major version, from their minor version on
    (CUDA_13, (12, 1), True), (CUDA_13, (13, 0), True),  # PTX, on everything newer
    (["sm_80"], (9, 0), False), (["sm_86"], (8, 0), False), (["compute_70"], (9, 0), True),
    (["sm_90a"], (9, 0), True), (["sm_90a", "compute_90a"], (10, 0), False), (["sm_100f"], (10, 3), True), (["sm_100f"], (12, 0), False),
    ([], (7, 0), True), (["gfx90a"], (9, 0), True),
])  # fmt: skip
def test_a_card_that_the_build_has_no_kernels_for_is_refused(built: list[str], card: tuple[int, int], fits: bool) -> None:
    problem = unsupported(card, built)
    assert (problem == "") is fits
    assert fits or f"compute capability {card[0]}.{card[1]}: it is built for {', '.join(built)}; install" in problem


def test_ranks_that_share_a_gpu_are_refused() -> None:
    refuse_shared([("a", "GPU-1"), ("a", "GPU-2"), ("b", "GPU-3")])
    refuse_shared([("a", ""), ("a", "")])  # CPUs
    with pytest.raises(SettingError, match=r"ranks 0 and 2 share one GPU \(GPU-1 on a\): start at most one rank per GPU"):
        refuse_shared([("a", "GPU-1"), ("a", "GPU-2"), ("a", "GPU-1")])


# -- what NCCL and CUDA raise ----------------------------------------------------------------------------------------------

HEAD = "NCCL error in: /pytorch/torch/csrc/distributed/c10d/ProcessGroupNCCL.cpp:3690, {}, NCCL version 2.28.9\n"
DUPLICATE = HEAD.format("invalid usage (run with NCCL_DEBUG=WARN for details)") + (
    "ncclInvalidUsage: This usually reflects invalid usage of NCCL library.\nLast error:\n"
    "Duplicate GPU detected : rank 1 and rank 0 both on CUDA device 1000"
)
NO_KERNEL = HEAD.format("unhandled cuda error (run with NCCL_DEBUG=INFO for details)") + (
    "ncclUnhandledCudaError: Call to CUDA function failed.\nLast error:\n"
    "Cuda failure 209 'no kernel image is available for execution on the device'"
)
MEMORY = (
    HEAD.format("unhandled cuda error")
    + "ncclUnhandledCudaError: Call to CUDA function failed.\nLast error:\nCuda failure 2 'out of memory'"
)
REMOTE = HEAD.format("remote process exited or there was a network error") + (
    "ncclRemoteError: A call failed possibly due to a network error or a remote process exiting prematurely.\nLast error:\n"
    "socketPollConnect: connect to 10.0.0.7<40123> returned Connection refused"
)


@pytest.mark.parametrize(("text", "lost", "again", "why"), [
    (DUPLICATE, False, False, "NCCL: Duplicate GPU detected : rank 1 and rank 0 both on CUDA device 1000 (ncclInvalidUsage)"),
    (NO_KERNEL, False, False, "NCCL: Cuda failure 209 'no kernel image is available for execution on the device' (ncclUnhandledCudaError)"),
    (MEMORY, False, True, "NCCL: Cuda failure 2 'out of memory' (ncclUnhandledCudaError)"),
    (REMOTE, True, True, "NCCL: socketPollConnect: connect to 10.0.0.7<40123> returned Connection refused (ncclRemoteError)"),
    (HEAD.format("internal error") + "ncclInternalError: Internal check failed.\nLast error:\n", True, True, "NCCL: ncclInternalError"),
])  # fmt: skip
def test_the_cause_that_nccl_gives_is_kept_and_invalid_usage_not_retried(
    tmp_path: Path, text: str, lost: bool, again: bool, why: str
) -> None:
    with pytest.raises(dist.DistBackendError) as raised:
        raise dist.DistBackendError(text)
    error = raised.value
    assert (lost_peer(error), transient(error), cause(error)) == (lost, again, why)
    assert why in reason(error, RunDirectory(tmp_path))


def test_a_wheel_without_kernels_for_the_card_is_not_retried(tmp_path: Path) -> None:
    error = RuntimeError(
        "CUDA error: no kernel image is available for execution on the device\nCompile with `TORCH_USE_CUDA_DSA`"
    )
    assert unfit(error)
    assert not transient(error)
    assert "distsynth.bench gpu" in reason(error, RunDirectory(tmp_path))


def test_gloos_errors_are_those_of_a_lost_peer() -> None:
    assert lost_peer(
        RuntimeError("[../third_party/gloo/gloo/transport/tcp/pair.cc:553] Connection closed by peer [127.0.0.1]:123")
    )
    assert not lost_peer(RuntimeError("a bug"))


# -- leaving ---------------------------------------------------------------------------------------------------------------


def test_after_an_error_nccl_is_aborted_and_nobody_waits_for_a_dead_peers_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[str] = []

    class Group:
        @property
        def WORLD(self) -> Any:
            return self

        def _get_backend(self, device: torch.device) -> Any:
            return self

        def abort(self) -> None:
            called.append("abort")

    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    monkeypatch.setattr(dist, "destroy_process_group", lambda: called.append("destroy"))
    monkeypatch.setattr(dist, "group", Group())
    for device, failed in (("cuda", True), ("cuda", False), ("cpu", True)):
        leave(torch.device(device), failed)
    assert called == ["abort", "destroy", "destroy"]


def test_a_rank_that_has_written_its_end_and_then_hangs_writes_no_second_one(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    told: list[Verdict] = []
    monkeypatch.setattr(os, "_exit", lambda status: told.append(Verdict(f"exit {status}")))
    for reported in (False, True):
        watchdog = Watchdog(tell=told.append)
        watchdog.reported = reported
        watchdog.end(Verdict("rank 1 has died"))
    assert [verdict.sentence for verdict in told] == ["rank 1 has died", "exit 2", "exit 2"]
    assert capsys.readouterr().err == "error: rank 1 has died\n" * 2


# -- precision -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("network", [
    lambda: UNet(1, 1, 4, 2), lambda: UNet(1, 1, 4, 2, direct=True), lambda: ResNet(1, 1, 4, 1), lambda: Generator(1, 1, 4, 1, 1),
    lambda: DiscoGenerator(1, 1, 4, 2, "instance"), lambda: Segmentor(1, 4, "instance", 2), lambda: Decoder(),
])  # fmt: skip
def test_a_saturated_pixel_still_learns_in_half_precision(network: Callable[[], torch.nn.Module]) -> None:
    """In bfloat16 the gradient of tanh was exactly 0 from 3.5 on, and that of sigmoid from 6.3 on."""
    torch.manual_seed(0)
    built = network()
    last = [part for part in built.modules() if isinstance(part, torch.nn.Conv2d | torch.nn.ConvTranspose2d)][-1]
    heard: list[Tensor] = []

    def saturate(_: Any, __: Any, output: Tensor) -> Tensor:
        pixels = output * 0 + 7
        pixels.register_hook(heard.append)
        return pixels

    last.register_forward_hook(saturate)
    with torch.autocast("cpu", torch.bfloat16):
        made = built(torch.rand(1, 1, 16, 16))
    assert made.dtype is torch.float32
    made.sum().backward()
    assert (heard[0] > 0).all()


class Decoder(Autoencoders):
    def __init__(self) -> None:
        super().__init__(4, 1, 0)

    def forward(self, x: Tensor) -> Tensor:
        return self.decode("target", x.expand(-1, 16, -1, -1))


def test_steps_that_fp16_skips_are_in_the_journal() -> None:
    """Also in that of a resumed run, whose checkpoint was made between two lines."""
    config = compose(["method=pix2pix_small"])
    method, size = method_of(config, 32)
    engine, resumed = (Engine(method, method.stages(config.train)[-1], config.train, CPU) for _ in range(2))
    batch = noise(config.variant, 2, size)
    for each in (engine, resumed):
        each.scalers = {name: torch.amp.GradScaler("cpu", init_scale=2.0**127) for name in each.scalers}
    engine.update(batch)
    resumed.load_state_dict(engine.state_dict())
    for each in (engine, resumed):
        each.update(batch)
        values = each.losses_since_last(2) | each.loss_scales()
        skips = {name.partition("/")[2]: value for name, value in values.items() if name.startswith("skipped/")}
        assert set(skips) == set(engine.scalers)
        assert skips["generator"] == 1.0
        assert values["loss_scale/generator"] == 2.0**125
    for each in engine.scalers:
        engine.scalers[each] = torch.amp.GradScaler("cpu", init_scale=4.0)
    engine.update(batch)
    assert engine.losses_since_last(3)["skipped/generator"] == 0.0


# -- waiting for a GPU -----------------------------------------------------------------------------------------------------


BLOCK = """
def block(*_, **__):
    arrived.set()
    with over:
        pass
"""


def position_during(call: Callable[[Callable[[], None]], Any]) -> tuple[str, bool]:
    """What the watchdog of two ranks thinks of a thread that blocks in `call`, with a function that looks like one of torch's own in C++."""
    arrived, over = threading.Event(), threading.Lock()
    over.acquire()
    names: dict[str, Any] = {"arrived": arrived, "over": over}
    exec(compile(BLOCK, f"site-packages{os.sep}torch{os.sep}_C.py", "exec"), names)
    block = names["block"]
    thread = threading.Thread(target=call, args=(block,))
    thread.start()
    assert arrived.wait(20)
    watchdog = Watchdog(0, 2, LimitSettings())
    watchdog.main_thread = thread.ident or 0
    try:
        return watchdog.position()
    finally:
        over.release()
        thread.join()


def test_a_rank_that_copies_a_batch_to_a_busy_gpu_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    batch = noise(compose(["method=unet_small"]).variant, 1, (8, 8))

    def copy(block: Callable[[], None]) -> Batch:
        monkeypatch.setattr(Tensor, "to", block)
        return batch.to(torch.device("cpu"))

    line, waits = position_during(copy)
    assert line.startswith("in batch.py:")
    assert waits


def test_a_rank_in_ddps_broadcast_waits_and_one_in_its_own_loss_below_ddp_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    store = dist.HashStore()
    dist.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        norm = torch.nn.BatchNorm1d(2)
        parallel = DistributedDataParallel(norm)

        def broadcast(block: Callable[[], None]) -> None:
            monkeypatch.setattr(dist, "_broadcast_coalesced", block)
            parallel(torch.rand(2, 2))

        def loss(block: Callable[[], None]) -> None:
            monkeypatch.undo()
            monkeypatch.setattr(norm, "forward", lambda x: (block(), x)[1])
            parallel(torch.rand(2, 2))

        assert position_during(broadcast)[1]
        assert not position_during(loss)[1]
    finally:
        dist.destroy_process_group()


def test_the_watchdogs_names_exist() -> None:
    """Renamed in torch or here, they would no longer match."""
    from torch.autograd import graph

    from distsynth.ranks.world import fetched

    assert {graph._engine_run_backward.__qualname__, fetched.__qualname__, Batch.to.__qualname__} == set(position.WAITS)
    assert position.DDP in DistributedDataParallel.__init__.__code__.co_filename
