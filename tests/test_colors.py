# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest

from rsvheat._colors import _oklab
from rsvheat.raster import class_colors

EUROSAT = (
    *("AnnualCrop", "Forest", "HerbaceousVegetation", "Highway", "Industrial", "Pasture"),
    *("PermanentCrop", "Residential", "River", "SeaLake"),
)


def distances(colors):
    seen = _oklab(colors)
    apart = np.linalg.norm(seen[:, None] - seen, axis=2)
    return apart[~np.eye(len(colors), dtype=bool)]


def test_oklab_is_as_published():
    """Values of white, red and blue from the article's own table of examples, via linear sRGB."""
    lab = _oklab(np.array([[255, 255, 255], [255, 0, 0], [0, 0, 255]], np.uint8))
    expected = [[1.0, 0.0, 0.0], [0.628, 0.225, 0.126], [0.452, -0.032, -0.312]]
    assert np.allclose(lab, expected, atol=1e-3)


@pytest.mark.parametrize("number", [2, 10, 25, 45])
def test_colors_can_be_told_apart(number):
    colors = class_colors([f"class {i}" for i in range(number)])
    assert colors.shape == (number, 3)
    # 0.02 is a just noticeable difference in OKLab.
    assert distances(colors).min() > {2: 0.3, 10: 0.2, 25: 0.12, 45: 0.08}[number]


def test_known_land_cover_has_its_colors():
    colors = dict(zip(EUROSAT, class_colors(EUROSAT).tolist(), strict=True))
    assert distances(class_colors(EUROSAT)).min() > 0.06
    for name, channel in {
        "Forest": 1,
        "Pasture": 1,
        "SeaLake": 2,
        "River": 2,
        "Residential": 0,
    }.items():
        assert np.argmax(colors[name]) == channel
    # Two classes of one kind do not share a color.
    assert distances(class_colors(["forest", "Forest 2", "deciduous forest"])).min() > 0.1


def test_the_same_names_have_the_same_colors():
    names = ["b", "forest", "a"]
    assert np.array_equal(class_colors(names), class_colors(names))


def test_colors_are_given_by_dict_yaml_and_json(tmp_path):
    given = {"Forest": "#010203", "x": "#FFfe00"}
    colors = class_colors(["x", "y", "Forest"], given)
    assert colors[0].tolist() == [255, 254, 0]
    assert colors[2].tolist() == [1, 2, 3]
    (tmp_path / "c.yaml").write_text('Forest: "#010203"\nx: "#FFfe00"\n')
    (tmp_path / "c.json").write_text('{"Forest": "#010203", "x": "#FFfe00"}')
    for name in ("c.yaml", "c.json"):
        assert np.array_equal(class_colors(["x", "y", "Forest"], tmp_path / name), colors)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"z": "#010203"}, "colors has 'z'; the classes are x, y"),
        ({"x": "red"}, r'color of x must be like "#1b6b2f", got \'red\''),
        ({"x": "#12345"}, "must be like"),
        ({"x": 123456}, "must be like"),
        ("[1, 2]", r"c\.yaml must map names of classes to colors"),
        ("{x: ", r"c\.yaml is neither YAML nor JSON"),
    ],
)
def test_wrong_colors_are_told(tmp_path, given, message):
    if isinstance(given, str):
        (tmp_path / "c.yaml").write_text(given)
        given = tmp_path / "c.yaml"
    with pytest.raises(ValueError, match=message):
        class_colors(["x", "y"], given)


def test_a_missing_file_of_colors_is_told(tmp_path):
    with pytest.raises(FileNotFoundError):
        class_colors(["x"], tmp_path / "none.yaml")
