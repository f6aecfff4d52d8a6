"""Benchmarks: their figures against slow loops, and their commands on synthetic lesions."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.metrics import roc_auc_score

pytest.importorskip("timm")
pytest.importorskip("torchvision")

from benchmarks import lesion_focus, object_boxes, recipe_step, saliency_cost
from benchmarks.lesion_focus import Pairs, Regions, matching_floor, ratios_of, weighted_auc
from examples.isic2018 import phantom, train


def test_auc_is_that_of_scikit_learn():
    scores = torch.randint(5, (6, 20)).float()  # many ties
    positive, negative = torch.randint(1, 9, (2, 6, 20))
    found = weighted_auc(scores, positive, negative)
    for row in range(6):
        expected = roc_auc_score(
            [1] * 20 + [0] * 20,
            scores[row].tolist() * 2,
            sample_weight=torch.cat([positive[row], negative[row]]),
        )
        assert float(found[row]) == pytest.approx(expected)


def test_auc_of_one_kind_is_nan():
    nothing = torch.zeros(1, 4)
    assert bool(weighted_auc(torch.rand(1, 4), nothing, torch.ones(1, 4)).isnan())


def test_regions_agree_with_counting_pixels():
    masks = torch.rand(4, 7, 9) < 0.4
    masks[3] = False  # no lesion to preserve
    pairs = Pairs(torch.tensor([0, 1, 3]), torch.tensor([2, 0, 1]))
    ratios = torch.rand(3, 3, 3)
    found = Regions(masks, pairs, 3).measure(ratios)
    pixels = ratios.repeat_interleave(3, 1).repeat_interleave(3, 2)[:, :7, :9]
    kept, held, exchanged = [], [], []
    for row, (i, j) in enumerate(zip(pairs.own, pairs.partner, strict=True)):
        if masks[i].any():
            kept.append(float(pixels[row][masks[i]].mean()))
        held.append(float(1 - pixels[row][masks[j] & ~masks[i]].mean()))
        exchanged.append(float(1 - pixels[row][~masks[j] & ~masks[i]].mean()))
    assert len(kept) == 2
    assert found["preservation"] == pytest.approx(sum(kept) / 2, abs=1e-5)
    assert found["interference"] == pytest.approx(sum(held) / 3, abs=1e-5)
    assert found["exchange"] == pytest.approx(sum(exchanged) / 3, abs=1e-5)
    assert found["mean_ratio"] == pytest.approx(float(pixels.mean()), abs=1e-5)


def test_the_floor_makes_the_mean_ratio_match():
    pairs = Pairs(torch.arange(10), torch.arange(10).roll(1))
    regions = Regions(torch.rand(10, 20, 20) < 0.3, pairs, 4)
    normalized = torch.rand(10, 5, 5)
    floor = matching_floor(normalized, regions, pairs)
    found = regions.mean_ratio(ratios_of(normalized, pairs, floor))
    assert found == pytest.approx(lesion_focus.MATCHED_RATIO, abs=1e-3)


def test_pairs_are_of_classes_at_least_as_frequent_and_of_one_epoch():
    labels = [0] * 60 + [1] * 20 + [2] * 8
    pairs = lesion_focus.draw_pairs(labels, seed=0)
    own, partner = (torch.tensor(labels)[index] for index in (pairs.own, pairs.partner))
    assert bool((partner <= own).all())  # class 0 is the most frequent
    assert set(pairs.own.tolist()) == set(range(len(labels)))
    again = lesion_focus.draw_pairs(labels, seed=0)
    assert torch.equal(pairs.partner, again.partner)


def test_boxes_of_objects_are_found_where_they_are(tmp_path):
    images = tmp_path / "images"
    images.mkdir()
    rows = ["image,left,top,right,bottom"]
    for number in range(6):
        canvas = np.full((40, 40, 3), 30 * number, dtype=np.uint8)
        canvas[10:20, 5 + number : 25] = 255
        Image.fromarray(canvas).save(images / f"{number}.png")
        rows.append(f"{number}.png,{5 + number},10,24,19")
    rows.append("0.png,0,0,39,39")  # all of it, which says nothing
    (tmp_path / "boxes.csv").write_text("\n".join(rows) + "\n")
    object_boxes.main(["--data", str(tmp_path), "--out", str(tmp_path / "out" / "boxes")])
    found = json.loads((tmp_path / "out" / "boxes.json").read_text())["rows"]
    assert found[0]["saliency"] == "border contrast"
    assert found[0]["auc"][0]["mean"] > 0.99
    assert "6 natural images" in (tmp_path / "out" / "boxes.md").read_text()


def test_the_distance_from_four_sides_is_that_from_one_where_they_are_alike():
    lesions = 0.6 + 0.02 * torch.rand(2, 3, 40, 40)
    lesions[:, :, 12:28, 12:28] = 0.2
    maps = lesion_focus.distance_from_sides(lesions, None)
    assert maps.shape == (2, 40, 40)
    assert (maps[:, 12:28, 12:28].amin((1, 2)) > maps[:, :5].amax((1, 2))).all()


def test_lesion_focus_runs_on_synthetic_lesions(tmp_path):
    data, run, out = tmp_path / "data", tmp_path / "run", tmp_path / "out"
    phantom.draw_phantom(
        data, train_images=60, test_per_class=1, size=(48, 64), seed=0, progress=False
    )
    common = ["--data", str(data)]
    train.main([*common, "--out", str(run), "--epochs", "1", "--workers", "0", "--mix", "none"])
    with pytest.raises(SystemExit, match="was trained on some of these images; hold the fold out"):
        lesion_focus.main([*common, "--out", str(out), "--folds", "1", "--runs", str(run)])
    lesion_focus.main([*common, "--out", str(out), "--runs", str(run)])
    result = json.loads(out.with_suffix(".json").read_text())
    rows = {(r["view"], r["patches_a_side"], r["saliency"]): r for r in result["rows"]}
    assert rows["whole", 14, "true masks"]["auc"] > 0.97
    assert rows["whole", 14, "border contrast"]["auc"] > 0.8
    for (_, _, saliency), row in rows.items():
        for mix in row["mixes"].values():
            # After one epoch Grad-CAM is flat in many images: no floor lowers their ratio.
            most = 0.8 if saliency.startswith("Grad-CAM") else 0.66
            assert 0.64 <= mix["matched"]["mean_ratio"] <= most
            assert 0.2 <= mix["matched"]["preservation"] <= 0.8
    assert out.with_suffix(".png").stat().st_size > 10_000
    assert "| true masks | " in out.with_suffix(".md").read_text()
    shuffled = rows["whole", 14, "border contrast of another image"]
    assert shuffled["auc"] < rows["whole", 14, "border contrast"]["auc"]


def test_saliency_cost_runs(tmp_path, monkeypatch):
    name = "small CNN, 64 x 3 x 112 x 112"
    monkeypatch.setattr(saliency_cost, "CASES", {name: (saliency_cost.CASES[name][0], 4, 32)})
    saliency_cost.main(["--out", str(tmp_path / "cost"), "--rounds", "2"])
    result = json.loads((tmp_path / "cost.json").read_text())
    times = result["cases"][name]
    assert set(times) > {"training step", "Grad-CAM", "Grad-CAM, half resolution"}
    assert all(len(values) == 2 and min(values) > 0 for values in times.values())
    assert "| training step | " in (tmp_path / "cost.md").read_text()


def test_recipe_step_measures_each_case(tmp_path, monkeypatch):
    data, tiny = tmp_path / "data", ["--recipe", "tiny", "--image-size", "32", "--batch-size", "4"]
    phantom.draw_phantom(data, train_images=12, test_per_class=1, size=(40, 56), progress=False)
    small = [*tiny, "--saliency", "fine_grained", "--saliency-of", "image"]
    cases = {"tokens": small, "no mixing": [*small, "--mix", "none"]}
    monkeypatch.setattr(recipe_step, "CASES", cases)
    found = {
        case: recipe_step.measure(case, str(data), str(tmp_path / case), rounds=2) for case in cases
    }
    for case, values in found.items():
        assert len(values["step"]) == len(values["plan"]) == 2
        assert len(values["tokens"]) == (2 if case == "tokens" else 0)
        assert 0 < max(values["plan"]) < min(values["step"])
        assert 0.1 < values["peak_gb"] < 24
    lines = recipe_step.table({"commit": "c", "threads": 2, "cases": found}).splitlines()
    assert len(lines) == 6
    assert "| - |" in lines[-1]
