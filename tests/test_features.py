"""Feature networks and the provider of their weights. The only address ever asked is a server of the test's own."""

from __future__ import annotations

import copy
import functools
import hashlib
import http.server
import threading
from pathlib import Path

import pytest
import torch
from samples import pretrained

from mrict_core.errors import MrictError
from mrict_core.networks import build_features, weights
from mrict_core.networks.features import FEATURES, FeatureNetwork
from mrict_core.web import Web

DEMO_HASH = "fc4c01526ef556c67dbeb6473800e54153f9f0800b33469c1e9ff178f34c0f16"
VGG_NAMES = ("vgg19_pool5", "vgg19_relu3_3", "vgg16_relu3_3")


def load_state(name: str) -> tuple[dict[str, torch.Tensor], str]:
    path, digest = weights.locate(name)
    return weights._read(path), digest


def head(bone: float, tissue: float, inner: float, size: int = 64) -> torch.Tensor:
    """A disc with a ring around it and a hole, on air: what a head looks like to a local filter."""
    y, x = torch.meshgrid(torch.linspace(-1, 1, size), torch.linspace(-1, 1, size), indexing="ij")
    radius = (x.square() / 0.6 + y.square() / 0.8).sqrt()
    image = torch.full((size, size), -1.0)
    image[radius < 0.95], image[radius < 0.85], image[radius < 0.7] = tissue, bone, tissue
    image[(x.square() + y.square()).sqrt() < 0.15] = inner
    return image[None, None]


CT = head(bone=0.2, tissue=-0.48, inner=-0.49)  # patient window: -0.48 is 20 HU
MR = head(bone=-0.9, tissue=0.3, inner=-0.4)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty MRICT_WEIGHTS, an empty torch cache and an address where nobody listens."""
    path = tmp_path / "weights"
    path.mkdir()
    monkeypatch.setenv(weights.FOLDER, str(path))
    monkeypatch.setenv(weights.MIRROR, "http://127.0.0.1:9")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    return path


@pytest.fixture(scope="session")
def vgg_folder(tmp_path_factory):
    """Random weights of the right shapes: VGG19's features alone, VGG16 with its prefix and a (stunted) classifier."""
    from torchvision import models

    path = tmp_path_factory.mktemp("vgg")
    generator = torch.Generator().manual_seed(0)
    for name in ("vgg19", "vgg16"):
        with torch.device("meta"):
            shapes = getattr(models, name)(init_weights=False).features.state_dict()
        state = {key: torch.randn(value.shape, generator=generator) * 0.05 for key, value in shapes.items()}
        if name == "vgg16":
            state = {f"features.{key}": value for key, value in state.items()} | {
                "classifier.6.bias": torch.zeros(1000)
            }
        torch.save(state, path / weights.FILES[name].name)
    return path


# --- demo_features ---


def test_demo_features_are_the_same_bits_everywhere():
    first, second = build_features("demo_features"), build_features("demo_features")
    assert first.weights_hash == second.weights_hash == DEMO_HASH
    assert first.name == "demo_features"
    values = b"".join(p.numpy().astype("<f4").tobytes() for p in first.layers.parameters())
    assert hashlib.sha256(values).hexdigest() == DEMO_HASH


@pytest.mark.parametrize("shape", [(2, 1, 64, 64), (2, 3, 96, 80)])
def test_demo_feature_shapes(shape):
    network = build_features("demo_features")
    assert network(torch.zeros(shape)).shape == (2, 576, shape[2] // 16, shape[3] // 16)
    assert network.embed(torch.zeros(shape)).shape == (2, 64) == (2, network.dimension)


def test_demo_distance_orders_images_as_it_should():
    phi = build_features("demo_features")

    def distance(fake: torch.Tensor) -> float:
        return (phi(fake) - phi(CT)).square().mean().item()

    blurred = torch.nn.functional.avg_pool2d(CT, 3, stride=1, padding=1)
    assert distance(CT) == 0
    assert 0 < distance(blurred) < 0.2 * distance(MR)
    assert 0.05 < distance(MR) < 1
    assert distance(torch.full_like(CT, -1.0)) > 2 * distance(blurred)


def test_demo_features_cost_far_less_than_the_demo_generator():
    from mrict_core.experiments.schema import Part
    from mrict_core.networks import build_network

    def multiplications(network: torch.nn.Module) -> int:
        total = 0

        def count(module, inputs, output):
            nonlocal total
            cells = inputs[0] if isinstance(module, torch.nn.ConvTranspose2d) else output
            total += cells[0, 0].numel() * module.weight.numel()

        convolutions = [m for m in network.modules() if isinstance(m, torch.nn.Conv2d | torch.nn.ConvTranspose2d)]
        handles = [m.register_forward_hook(count) for m in convolutions]
        network(torch.zeros(1, 1, 64, 64))
        for handle in handles:
            handle.remove()
        return total

    generator = build_network(Part("unet_b"), width=16, in_channels=1).eval()
    assert 0 < multiplications(build_features("demo_features")) < 0.12 * multiplications(generator)


# --- what all of them share ---


@pytest.fixture(params=["demo_features", *VGG_NAMES])
def network(request, vgg_folder, monkeypatch):
    monkeypatch.setenv(weights.FOLDER, str(vgg_folder))
    return build_features(request.param)


def test_gradients_flow_to_the_image_and_never_to_the_weights(network):
    x = CT.clone().requires_grad_(True)
    network(x).square().mean().backward()
    assert x.grad.abs().sum() > 0
    assert all(p.grad is None and not p.requires_grad for p in network.parameters())


@pytest.mark.parametrize("name", ["demo_features", *VGG_NAMES])
def test_building_draws_nothing_from_the_global_random_state(name, vgg_folder, monkeypatch):
    monkeypatch.setenv(weights.FOLDER, str(vgg_folder))
    before = torch.get_rng_state()
    build_features(name)
    assert torch.equal(torch.get_rng_state(), before)


def test_training_mode_of_a_parent_does_not_thaw(network):
    parent = torch.nn.ModuleList([network]).train()
    assert parent.training
    assert not any(module.training for module in network.modules())


def test_grey_is_repeated_and_two_channels_are_refused(network):
    with torch.no_grad():
        double = copy.deepcopy(network).compute_in(torch.float64)
        torch.testing.assert_close(double(CT), double(CT.repeat(1, 3, 1, 1)), rtol=1e-5, atol=1e-5)
        assert network.embed(CT).shape == (1, network.dimension)
    with pytest.raises(MrictError, match=rf"{network.name}: input of shape \(1, 2, 64, 64\), expected \(B, 1 or 3"):
        network(CT.repeat(1, 2, 1, 1))


def test_unknown_feature_network_suggests_the_nearest():
    with pytest.raises(MrictError, match="unknown feature network 'vgg19_pool_5': did you mean 'vgg19_pool5'"):
        build_features("vgg19_pool_5")


# --- VGG ---


@pytest.mark.parametrize(
    ("name", "shape", "last_layer"),
    [
        ("vgg19_pool5", (1, 512, 2, 2), "MaxPool2d"),
        ("vgg19_relu3_3", (1, 256, 16, 16), "ReLU"),
        ("vgg16_relu3_3", (1, 256, 16, 16), "ReLU"),
    ],
)
def test_vgg_layers_shapes_and_hash(name, shape, last_layer, vgg_folder, monkeypatch):
    monkeypatch.setenv(weights.FOLDER, str(vgg_folder))
    phi = build_features(name)
    with torch.no_grad():
        assert phi(CT).shape == shape
    assert type(phi.layers[-1]).__name__ == last_layer
    assert len(phi.layers) == (37 if name == "vgg19_pool5" else 16)
    file = vgg_folder / weights.FILES[name[:5]].name
    assert phi.weights_hash == hashlib.sha256(file.read_bytes()).hexdigest()


def test_vgg_sees_minus_one_to_one_unless_imagenet_normalisation_is_asked_for(vgg_folder, monkeypatch):
    monkeypatch.setenv(weights.FOLDER, str(vgg_folder))
    plain = build_features("vgg16_relu3_3")
    twin = build_features("vgg16_relu3_3", imagenet_normalisation=True)
    assert (plain.name, twin.name) == ("vgg16_relu3_3", "vgg16_relu3_3+imagenet_normalisation")
    assert torch.equal(plain.prepare(CT), CT.expand(-1, 3, -1, -1))
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    expected = ((CT + 1) / 2 - mean.view(1, 3, 1, 1)) / std.view(1, 3, 1, 1)
    torch.testing.assert_close(twin.prepare(CT), expected)
    state, _ = load_state("vgg16")
    first = torch.nn.functional.conv2d(expected, state["0.weight"], state["0.bias"], padding=1)
    torch.testing.assert_close(twin.layers[0](twin.prepare(CT)), first)


def test_imagenet_normalisation_is_refused_where_it_has_no_meaning():
    with pytest.raises(MrictError, match="'demo_features' has its own scaling"):
        build_features("demo_features", imagenet_normalisation=True)


def test_normalised_vgg_has_unit_mean_activations(monkeypatch):
    monkeypatch.setenv(weights.FOLDER, str(pretrained(weights.FILES["vgg19_normalised"].name).parent))
    phi = build_features("vgg19_normalised_relu3_1")
    red = torch.tensor([1.0, -1.0, -1.0]).view(1, 3, 1, 1).expand(1, 3, 8, 8)
    blue_green_red = phi.layers[0](phi.prepare(red))[0, :, 0, 0]
    torch.testing.assert_close(blue_green_red, torch.tensor([0 - 103.939, 0 - 116.779, 255 - 123.68]))
    features = phi(CT.repeat(1, 1, 2, 2))
    assert features.shape == (1, 256, 32, 32)
    assert 0.2 < features.mean() < 3  # its authors scaled the weights to a mean of 1 over natural images


# --- Inception ---


def test_inception_loads_a_file_of_the_right_shape(folder):
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3, InceptionA

    class Random(FeatureExtractorInceptionV3):
        def load_state_dict(self, *args, **kwargs):
            return None

    empty = folder / "empty.pth"
    torch.save({}, empty)
    torch.manual_seed(0)
    reference = Random("inception-v3-compat", ["2048"], feature_extractor_weights_path=str(empty))
    assert isinstance(reference.Mixed_5b, InceptionA)
    torch.save(reference.state_dict(), folder / weights.FILES["inception_fid"].name)

    before = torch.get_rng_state()
    phi = build_features("inception_fid").train()
    assert torch.equal(torch.get_rng_state(), before)
    images = torch.randint(0, 256, (1, 3, 32, 32), dtype=torch.uint8)
    assert (phi.name, phi.dimension) == ("inception_fid", 2048)
    assert not any(m.training for m in phi.modules())
    torch.testing.assert_close(phi.embed(images), reference(images)[0])
    assert torch.equal(phi(images), phi.embed(images))
    with pytest.raises(MrictError, match=r"expected \(B, 3, H, W\) uint8"):
        phi.embed(images.float())

    torch.save({"Conv2d_1a_3x3.conv.weight": torch.zeros(1)}, folder / weights.FILES["inception_fid"].name)
    with pytest.raises(MrictError, match=r"'Conv2d_1a_3x3\.conv\.weight' has shape \(1,\), expected \(32, 3, 3, 3\)"):
        build_features("inception_fid")


@pytest.mark.parametrize("name", sorted(set(FEATURES) - {"demo_features"}))
def test_absent_weights_are_an_error_and_never_random(name, folder, monkeypatch):
    monkeypatch.setattr("mrict_core.web.TRIES", 1)  # nobody will answer later
    with pytest.raises(MrictError) as caught:
        build_features(name)
    message = str(caught.value)
    known = {"vgg19_normalised_relu3_1": "vgg19_normalised", "lpips_squeeze": "squeezenet1_1"}
    file = weights.FILES[known.get(name, name.split("_relu")[0].split("_pool")[0])]
    assert file.name in message
    assert str(folder) in message
    assert weights.FOLDER in message
    assert file.url is None or file.url in message
    assert "\n" not in message


# --- the provider ---


def test_addresses_are_those_of_the_packages(monkeypatch):
    from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3
    from torchvision.models import SqueezeNet1_1_Weights, VGG16_Weights, VGG19_Weights

    monkeypatch.delenv(weights.MIRROR, raising=False)
    assert weights.FILES["vgg19"].url == VGG19_Weights.IMAGENET1K_V1.url
    assert weights.FILES["vgg16"].url == VGG16_Weights.IMAGENET1K_V1.url
    assert weights.FILES["inception_fid"].url == URL_INCEPTION_V3
    assert weights.FILES["squeezenet1_1"].url == SqueezeNet1_1_Weights.IMAGENET1K_V1.url
    prefixes = {name: weights.FILES[name].sha256_prefix for name in ("vgg19", "vgg16", "inception_fid")}
    assert prefixes == {"vgg19": "dcbb9e9d", "vgg16": "397923af", "inception_fid": "6726825d"}


@pytest.fixture
def server(tmp_path, monkeypatch, folder):
    """A server on 127.0.0.1 for one small file, registered under its true hash; yields (answer, name, cache)."""
    source = tmp_path / "small.pth"
    torch.save({"features.0.weight": torch.ones(2, 2), "classifier.0.weight": torch.zeros(3)}, source)
    body = source.read_bytes()
    answer = {"status": 200, "body": body, "length": len(body), "requests": []}

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            answer["requests"].append(self.path)
            self.send_response(answer["status"])
            self.send_header("Content-Length", str(answer["length"]))
            self.end_headers()
            self.wfile.write(answer["body"])

        def log_message(self, *args):
            pass

    file = weights.WeightsFile(f"small-{hashlib.sha256(body).hexdigest()[:8]}.pth", "http://127.0.0.1:9")
    monkeypatch.setitem(weights.FILES, "small", file)
    httpd = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    monkeypatch.setenv(weights.MIRROR, f"http://127.0.0.1:{httpd.server_port}/mirror/")
    monkeypatch.setattr(weights, "Web", functools.partial(Web, sleep=lambda wait_s: None))
    yield answer, file.name, tmp_path / "torch" / "hub" / "checkpoints"
    httpd.shutdown()
    httpd.server_close()
    thread.join()


def test_download_is_checked_cached_and_asked_for_once(server):
    answer, name, cache = server
    state, digest = load_state("small")
    assert list(state) == ["0.weight"]
    assert digest == hashlib.sha256(answer["body"]).hexdigest()
    load_state("small")
    assert answer["requests"] == [f"/mirror/{name}"]
    assert {p.name for p in cache.iterdir()} - {".lock"} == {name}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"status": 404}, "404"),
        ({"body": b"something else", "length": 14}, "sha256 starts with"),
        ({"body": b"PK", "length": 4000}, "gave up after 6 tries"),
    ],
    ids=["404", "wrong hash", "truncated"],
)
def test_failed_download_names_all_and_leaves_no_weights(server, folder, change, reason):
    answer, name, cache = server
    answer.update(change)
    with pytest.raises(MrictError, match=reason) as caught:
        load_state("small")
    message = str(caught.value)
    assert name in message
    assert str(folder) in message
    assert f"/mirror/{name}" in message
    assert not (cache / name).exists()


def test_a_download_is_gone_on_with(server):
    """The server knows no ranges: it sends the whole file again."""
    answer, name, cache = server
    body = answer["body"]
    cache.mkdir(parents=True)
    (cache / f"{name}.part").write_bytes(body[:100])
    answer.update(body=body)
    assert load_state("small")[1] == hashlib.sha256(body).hexdigest()


def test_folder_comes_before_the_download_and_may_hold_another_hash(server, folder):
    answer, name, _ = server
    torch.save({"0.weight": torch.zeros(1)}, folder / name)
    state, digest = load_state("small")
    assert state["0.weight"].shape == (1,)
    assert digest == hashlib.sha256((folder / name).read_bytes()).hexdigest()
    assert answer["requests"] == []


def test_altered_cache_is_refused(server):
    _, name, cache = server
    load_state("small")
    with open(cache / name, "ab") as file:
        file.write(b"x")
    with pytest.raises(MrictError, match=f"{name}: sha256 starts with .* delete it"):
        load_state("small")


def test_folder_that_does_not_exist_is_an_error(monkeypatch, tmp_path):
    monkeypatch.setenv(weights.FOLDER, str(tmp_path / "nowhere"))
    with pytest.raises(MrictError, match=r"nowhere: no such folder; set it .* holds vgg19-dcbb9e9d\.pth"):
        load_state("vgg19")


class Malicious:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self):
        return Path.touch, (self.target,)


def test_a_file_with_code_in_it_is_refused_and_not_run(folder, tmp_path):
    torch.save({"0.weight": Malicious(tmp_path / "ran")}, folder / "vgg16-397923af.pth")
    with pytest.raises(MrictError, match=r"vgg16-397923af\.pth: not a readable weights file"):
        load_state("vgg16")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("keep", [0, 10, 1000, -200], ids=["empty", "10 bytes", "1000 bytes", "end cut"])
def test_truncated_file_is_an_error_that_names_it(folder, keep):
    path = folder / "vgg16-397923af.pth"
    torch.save({"0.weight": torch.zeros(64, 3, 3, 3)}, path)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(MrictError, match=r"vgg16-397923af\.pth: not a readable weights file") as caught:
        build_features("vgg16_relu3_3")
    assert "\n" not in str(caught.value)


def first_layers(path: Path) -> dict[str, torch.Tensor]:
    """The layers [:16] of a whole VGG's file, as a features-only file names them."""
    state = torch.load(path, weights_only=True)
    features = {key.removeprefix("features."): value for key, value in state.items() if key.startswith("features.")}
    return {key: value for key, value in features.items() if int(key.split(".")[0]) < 16}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda s: s | {"5.weight": torch.zeros(7, 64, 3, 3)},
            r"'5\.weight' .* \(7, 64, 3, 3\), expected \(128, 64, 3, 3\)",
        ),
        (lambda s: {k: v for k, v in s.items() if k != "2.bias"}, r"has no '2\.bias'; expected the weights of vgg16"),
        (lambda s: [s], "contains list, expected a plain state dict"),
        (lambda s: {"state_dict": s}, "expected a plain state dict of tensors"),
    ],
    ids=["shape", "missing key", "list", "wrapped"],
)
def test_wrong_content_names_the_first_mismatch(folder, vgg_folder, change, message):
    name = weights.FILES["vgg16"].name
    torch.save(change(first_layers(vgg_folder / name)), folder / name)
    with pytest.raises(MrictError, match=rf"{name}.*{message}"):
        build_features("vgg16_relu3_3")


def test_the_first_layers_alone_are_enough_for_a_network_that_ends_there(folder, vgg_folder):
    name = weights.FILES["vgg16"].name
    torch.save(first_layers(vgg_folder / name), folder / name)
    assert isinstance(build_features("vgg16_relu3_3"), FeatureNetwork)


def test_unknown_weights_are_an_error():
    with pytest.raises(MrictError, match="unknown weights 'vgg_19': did you mean 'vgg19'"):
        load_state("vgg_19")
