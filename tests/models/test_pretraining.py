# SPDX-License-Identifier: Apache-2.0
import copy
import math
import os
import socket
from pathlib import Path

import pytest
import torch
from torch import Tensor, multiprocessing
from utils import random, scipy_dct2d, scipy_idct2d, sector

from rsvheat.augmentation import RandomView
from rsvheat.losses import gather_samples
from rsvheat.masking import FrequencyMasking
from rsvheat.models import RSVHeat, RSVHeatPretraining, create_pretraining_model, pool_features

BANDS = {"optical": 3, "sar": 1}
OBJECTIVES = ("contrastive", "paper")
# Batches by what they hold: positions of each modality's images among the samples.
BATCHES = {
    "pairs": {"optical": [0, 1, 2], "sar": [0, 1, 2]},
    "mixed": {"optical": [0, 1, 3, 4], "sar": [1, 2, 4]},
    "unpaired": {"optical": [0, 2], "sar": [1, 3, 4]},
    "optical alone": {"optical": [0, 1, 2]},
    "sar alone": {"sar": [0, 1, 2]},
    "nothing": {},
}


def _model(objective: str = "contrastive", **options) -> RSVHeatPretraining:
    torch.manual_seed(1)
    # At 64 pixels the last stage has 2 x 2 positions: with one, heat has nowhere to go, and its
    # frequency embedding no gradient.
    encoder = RSVHeat(
        dims=(8, 16, 24, 32),
        depths=(1, 1, 1, 1),
        img_size=64,
        modalities=BANDS,
        num_classes=0,
        norm_position="pre",
        layer_scale=None,
    )
    options = {"decoder_dim": 16, "projection": (24, 12), **options}
    return RSVHeatPretraining(encoder, objective=objective, **options)


def _batch(kind: str, dtype: torch.dtype = torch.float32) -> tuple[dict[str, Tensor], dict]:
    index = {name: torch.tensor(rows) for name, rows in BATCHES[kind].items()}
    scenes = {name: random((5, bands, 64, 64), dtype) for name, bands in BANDS.items()}
    return {name: scenes[name][rows] for name, rows in index.items()}, index


def _generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("kind", BATCHES)
def test_every_parameter_gets_a_gradient_whatever_the_batch_holds(kind, objective):
    model = _model(objective)
    images, index = _batch(kind)
    output = model(images, index, _generator())
    assert output.loss.shape == ()
    assert output.loss.isfinite()
    assert list(output.losses) == ["spatial", "frequency", "contrastive"]
    output.loss.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        # The encoder's head is not pretrained; a modality that is not there has no part.
        absent = [modality for modality in BANDS if modality not in images]
        unused = ["encoder.head."] + [f".{modality}." for modality in absent]
        if not images or any(part in name for part in unused):
            assert not parameter.grad.any(), name
        else:
            assert parameter.grad.any(), name


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_nothing_is_computed_for_a_missing_modality(objective):
    model = _model(objective)
    ran = []
    for name, stem in model.encoder.stems.items():
        stem.register_forward_hook(lambda *_, name=name: ran.append(name))
    images, index = _batch("sar alone")
    output = model(images, index, _generator(), with_images=True)
    assert set(ran) == {"sar"}
    assert list(output.reconstruction) == ["sar"]
    # Empty modalities are missing ones.
    images["optical"], index["optical"] = torch.zeros(0, 3, 64, 64), torch.zeros(0).long()
    again = model(images, index, _generator())
    assert set(ran) == {"sar"}
    torch.testing.assert_close(again.loss, output.loss)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_images_show_what_was_seen_and_what_was_not(objective):
    model = _model(objective)
    images, index = _batch("mixed")
    output = model(images, index, _generator(), with_images=True)
    views = 2 if objective == "contrastive" else 1
    for name, x in images.items():
        shape = (views * len(x), *x.shape[1:])
        for part in (output.target, output.low, output.high, output.reconstruction):
            assert part[name].shape == shape
            assert not part[name].requires_grad
        torch.testing.assert_close(output.low[name] + output.high[name], output.target[name])
    without = model(images, index, _generator())
    assert without.reconstruction == without.low == {}
    if objective == "paper":
        assert torch.equal(output.target["sar"], images["sar"])


@pytest.mark.parametrize("size", [(32, 32), (40, 56), (33, 47)])
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_images_of_any_size(size, objective):
    images = {"optical": random((2, 3, *size))}
    output = _model(objective)(images, generator=_generator(), with_images=True)
    assert output.reconstruction["optical"].shape[2:] == size


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_all_randomness_comes_from_the_generator(objective):
    model = _model(objective)
    images, index = _batch("mixed")
    torch.manual_seed(1)
    first = model(images, index, _generator(5))
    torch.manual_seed(2)
    again = model(images, index, _generator(5))
    other = model(images, index, _generator(6))
    assert torch.equal(first.loss, again.loss)
    assert not torch.equal(first.loss, other.loss)
    state = torch.random.get_rng_state()
    model(images, index, _generator(5))
    assert torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.parametrize("kind", ["pairs", "mixed", "optical alone"])
@pytest.mark.parametrize("fusion", ["sum", "linear"])
def test_paper_objective_is_what_it_says(kind, fusion):
    model = _model("paper", fusion=fusion, weights=(0.5, 2.0, 3.0)).double()
    images, index = _batch(kind, torch.float64)
    output = model(images, index, _generator(), with_images=True)

    generator, encoder = _generator(), model.encoder
    spatial = frequency = cosine = count = pairs = 0.0
    bands = {}
    for name, x in images.items():
        radius, angles = model.maskings[0].draw(len(x), 64, 64, generator)
        low = torch.empty_like(x)
        for i in range(len(x)):
            mask = sector(64, 64, radius[i].item(), angles[i].tolist())
            spectrum = scipy_dct2d(x[i : i + 1].numpy(), "nchw") * mask
            low[i] = torch.from_numpy(scipy_idct2d(spectrum, "nchw"))[0]
        stages = [
            encoder.forward_intermediates(band, modality=name, intermediates_only=True)[2:]
            for band in (low, x - low)
        ]
        bands[name] = stages
        fused = []
        for level, (a, b) in enumerate(zip(*stages, strict=True)):
            a, b = a.permute(0, 2, 3, 1), b.permute(0, 2, 3, 1)
            joined = a + b if fusion == "sum" else model.fusions[level](torch.cat((a, b), -1))
            fused.append(joined)
        image, other = (
            model.decoders[decoder](fused, name, (64, 64)) for decoder in ("spatial", "frequency")
        )
        torch.testing.assert_close(output.reconstruction[name], image)
        spatial += (image - x).abs().mean((1, 2, 3)).sum()
        spectra = [torch.from_numpy(scipy_dct2d(y.detach().numpy(), "nchw")) for y in (other, x)]
        frequency += (spectra[0] - spectra[1]).abs().mean((1, 2, 3)).sum()
        count += len(x)
    for i, sample in enumerate(index["optical"].tolist()):
        for j, other in enumerate(index.get("sar", torch.zeros(0)).tolist()):
            if sample == other:
                pairs += 1
                for low_or_high in range(2):
                    for level in range(2):
                        a = bands["optical"][low_or_high][level][i]
                        b = bands["sar"][low_or_high][level][j]
                        similarity = (a * b).sum(0) / a.norm(dim=0) / b.norm(dim=0)
                        cosine += (1 - similarity).mean() / 4
    expected = {
        "spatial": spatial / count,
        "frequency": frequency / count,
        "contrastive": torch.as_tensor(cosine / max(pairs, 1)),
    }
    for name, value in expected.items():
        assert output.losses[name].item() == pytest.approx(value.item(), rel=1e-9, abs=1e-12)
    total = 0.5 * expected["spatial"] + 2 * expected["frequency"] + 3 * expected["contrastive"]
    assert output.loss.item() == pytest.approx(total.item(), rel=1e-9)
    assert pairs == {"pairs": 3, "mixed": 2, "optical alone": 0}[kind]


def test_contrastive_objective_knows_pairs_as_views_of_one_sample():
    model = _model(views=1, weights=(0, 0, 1), masking=(), augmentation=_still())
    images, index = _batch("pairs")
    paired = model(images, index, _generator()).losses["contrastive"]
    swapped = {"optical": index["optical"], "sar": index["sar"].roll(1)}
    assert not torch.equal(paired, model(images, swapped, _generator()).losses["contrastive"])
    images, index = _batch("unpaired")
    alone = model(images, index, _generator()).losses["contrastive"]
    assert alone == 0, "one view of each sample is no positive for anything"


def _still() -> RandomView:
    """A view that is the image."""
    return RandomView(scale=(1, 1), ratio=(1, 1), dihedral=False, brightness=0, contrast=0,
                      channel_shift=0)  # fmt: skip


def test_parts_of_weight_zero_are_left_out():
    images, index = _batch("mixed")
    for weights, names in (
        ((1, 0, 0), ["spatial"]),
        ((1, 1, 0), ["spatial", "frequency"]),
        ((0, 0, 1), ["contrastive"]),
    ):
        for objective in OBJECTIVES:
            model = _model(objective, weights=weights)
            output = model(images, index, _generator())
            assert list(output.losses) == names
            assert set(model.decoders) == set(names) - {"contrastive"}
            output.loss.backward()
            assert all(parameter.grad is not None for parameter in model.parameters())


def test_collapse_of_the_paper_objective_shows_and_is_answered():
    def train(variance_weight: float) -> tuple[float, float]:
        model = _model("paper", weights=(0, 0, 1), variance_weight=variance_weight)
        images, index = _batch("pairs")
        optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
        generator = _generator()
        for _ in range(40):
            optimizer.zero_grad()
            output = model(images, index, generator)
            output.loss.backward()
            optimizer.step()
        return output.losses["contrastive"].item(), output.statistics["feature_std"].item()

    collapsed, answered = train(0), train(5)
    assert collapsed[0] < 0.05, "all features agree"
    assert collapsed[1] < 0.5 * answered[1], "because they are nearly the same for all images"


def test_training_lowers_every_part():
    model = _model()
    images, index = _batch("mixed")
    # Images with structure: noise has nothing to reconstruct from.
    images = {name: torch.nn.functional.avg_pool2d(x, 9, 1, 4) * 9 for name, x in images.items()}
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
    first: dict[str, Tensor] = {}
    for _ in range(40):
        optimizer.zero_grad()
        output = model(images, index, _generator())
        first = first or output.losses
        output.loss.backward()
        optimizer.step()
    for name, loss in output.losses.items():
        assert loss < 0.9 * first[name], name


def test_pooled_features_are_means_and_deviations_over_space():
    maps = [random((2, 4, 5, 3), torch.float64), random((2, 1, 1, 6), torch.float64)]
    pooled = pool_features(maps)
    flat = maps[0].reshape(2, 20, 3)
    torch.testing.assert_close(pooled[:, :3], flat.mean(1))
    torch.testing.assert_close(pooled[:, 3:6], flat.std(1, correction=0), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(pooled[:, 6:12], maps[1][:, 0, 0])
    assert pooled.shape == (2, 18)
    assert torch.equal(pool_features(maps, deviation=False), pooled[:, [0, 1, 2, *range(6, 12)]])


def test_gradients_flow_through_pooled_features_of_one_position():
    maps = random((2, 1, 1, 3)).requires_grad_()
    pool_features([maps]).sum().backward()
    assert maps.grad.isfinite().all()


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_bfloat16_autocast_gives_finite_losses_near_float32(objective):
    model = _model(objective)
    images, index = _batch("mixed")
    exact = model(images, index, _generator())
    with torch.autocast("cpu", torch.bfloat16):
        output = model(images, index, _generator())
    output.loss.backward()
    assert output.loss.dtype == torch.float32
    torch.testing.assert_close(output.loss, exact.loss, rtol=0.03, atol=0)


def test_the_builder_takes_options_of_model_and_encoder():
    model = create_pretraining_model(
        "rsvheat_nano",
        {"optical": 4, "dem": 1},
        img_size=64,
        encoder_options={"freq_embed": "implicit"},
        objective="paper",
        fusion="linear",
    )
    assert model.encoder.modalities == {"optical": 4, "dem": 1}
    assert model.encoder.num_classes == 0
    assert model.encoder.freq_embed == "implicit"
    assert len(model.fusions) == 2
    output = model({"dem": random((2, 1, 64, 64))})
    assert output.loss.isfinite()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"objective": "moco"}, "objective must be one of contrastive, paper, got 'moco'"),
        ({"fusion": "max"}, "fusion must be 'sum' or 'linear', got 'max'"),
        ({"views": 0}, "views must be at least 1, got 0"),
        ({"temperature": 0}, "temperature must be above 0, got 0"),
        ({"weights": (1, 1)}, "weights must be three"),
        ({"weights": (1, 1, -1)}, "weights must be three"),
        ({"variance_weight": math.inf}, "weights must be three"),
        ({"heads": []}, "heads must be groups of stages within -4 to 3, got"),
        ({"heads": [[0], []]}, "heads must be groups of stages within -4 to 3"),
        ({"heads": [[4]]}, "heads must be groups of stages within -4 to 3, got ..4.."),
        ({"objective": "paper", "masking": ()}, "masking must be one for objective 'paper', got 0"),
        ({"objective": "paper", "augmentation": RandomView()}, "augmentation must be None"),
    ],
)
def test_wrong_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        _model(**options)


@pytest.mark.parametrize(
    ("images", "index", "message"),
    [
        ({"lidar": (2, 1, 32, 32)}, None, "images may hold modalities .*, got 'lidar'"),
        ({"sar": (2, 3, 32, 32)}, None, "images.'sar'. must have shape .N, 1, H, W., got"),
        ({"sar": (2, 1, 32, 32), "optical": (3, 3, 32, 32)}, None, "without index"),
        ({"sar": (2, 1, 32, 32)}, {}, "index.'sar'. must be .2,., got nothing"),
        ({"sar": (2, 1, 32, 32)}, {"sar": (3,)}, "index.'sar'. must be .2,., got .3,."),
    ],
)
def test_wrong_batches_are_named(images, index, message):
    model = _model()
    batch = {name: torch.zeros(shape) for name, shape in images.items()}
    if index is not None:
        index = {name: torch.zeros(shape).long() for name, shape in index.items()}
    with pytest.raises(ValueError, match=message):
        model(batch, index)


# What each process holds: neither has what the other has, and one step has a lone image.
RANKS = (
    {"optical": [0, 1, 2], "sar": [1, 2]},
    {"sar": [3, 4]},
)


def _deterministic(objective: str) -> RSVHeatPretraining:
    """A model whose views do not depend on how samples are spread over processes."""
    masking = FrequencyMasking(ratio=(0.25, 0.25))
    if objective == "paper":
        return _model("paper", masking=masking, variance_weight=1.0).double()
    return _model(masking=masking, augmentation=_still(), variance_weight=1.0).double()


def _scenes() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(7)
    return {
        name: torch.randn(5, bands, 64, 64, generator=generator, dtype=torch.float64)
        for name, bands in BANDS.items()
    }


def _worker(rank: int, port: int, objective: str, folder: str) -> None:
    torch.set_num_threads(1)
    os.environ.update(MASTER_ADDR="localhost", MASTER_PORT=str(port))
    torch.distributed.init_process_group("gloo", rank=rank, world_size=2)
    model = torch.nn.parallel.DistributedDataParallel(_deterministic(objective))
    scenes = _scenes()
    # Twice: DDP orders its buckets anew after the first step, which is when ranks would hang.
    for held in (RANKS, RANKS[::-1]):
        rows = held[rank]
        index = {name: torch.tensor(samples) for name, samples in rows.items()}
        model.zero_grad()
        output = model({name: scenes[name][i] for name, i in index.items()}, index)
        output.loss.backward()
    gradients = {name: p.grad for name, p in model.module.named_parameters()}
    gathered = gather_samples(torch.full((rank, 2), float(rank)))
    losses = {name: loss.clone() for name, loss in output.losses.items()}
    for loss in losses.values():
        torch.distributed.all_reduce(loss)
        loss /= 2
    torch.save((gradients, losses, output.statistics, gathered), Path(folder, f"{rank}.pt"))
    torch.distributed.destroy_process_group()


@pytest.mark.source_tree  # The processes import this file.
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_two_processes_have_the_gradients_of_one_on_the_joint_batch(objective, tmp_path):
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    multiprocessing.spawn(_worker, (port, objective, str(tmp_path)), nprocs=2)

    model, scenes = _deterministic(objective), _scenes()
    index = {
        name: torch.tensor([i for held in RANKS[::-1] for i in held.get(name, [])])
        for name in BANDS
    }
    output = model({name: scenes[name][i] for name, i in index.items()}, index)
    output.loss.backward()
    expected = {name: p.grad for name, p in model.named_parameters()}
    for rank in range(2):
        gradients, losses, statistics, gathered = torch.load(tmp_path / f"{rank}.pt")
        for name, gradient in expected.items():
            torch.testing.assert_close(gradients[name], gradient, rtol=1e-8, atol=1e-12, msg=name)
        for name, loss in output.losses.items():
            torch.testing.assert_close(losses[name], loss)
        torch.testing.assert_close(statistics, output.statistics)
        assert torch.equal(gathered, torch.ones(1, 2))


def test_a_copy_trains_the_same():
    model = _model()
    twin = copy.deepcopy(model)
    twin.load_state_dict(model.state_dict())
    images, index = _batch("mixed")
    assert torch.equal(
        model(images, index, _generator()).loss, twin(images, index, _generator()).loss
    )
