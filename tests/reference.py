"""The method in slow loops over plain numbers, written from its formulas, as an oracle."""

import math

import numpy as np
import scipy.ndimage
import torch


def patch_scores(saliency, patch_size):
    """Mean of the saliency over each patch, border patches over their own pixels."""
    batch, height, width = saliency.shape
    rows, columns = math.ceil(height / patch_size), math.ceil(width / patch_size)
    scores = torch.zeros(batch, rows, columns, dtype=saliency.dtype)
    for b in range(batch):
        for i in range(rows):
            for j in range(columns):
                values = [
                    float(saliency[b, y, x])
                    for y in range(i * patch_size, min((i + 1) * patch_size, height))
                    for x in range(j * patch_size, min((j + 1) * patch_size, width))
                ]
                scores[b, i, j] = sum(values) / len(values)
    return scores


def ratios(scores, partner, floor, alpha, normalize="min_max"):
    """Normalise each image's scores, lift them, take the pair's maximum, bound it."""
    batch, rows, columns = scores.shape
    lifted = torch.zeros_like(scores)
    for b in range(batch):
        values = [float(v) for v in scores[b].flatten()]
        low, high = min(values), max(values)
        flat = high - low <= 1e-5 * max(abs(low), abs(high))
        for i in range(rows):
            for j in range(columns):
                n = 1.0 if flat else (float(scores[b, i, j]) - low) / (high - low)
                if normalize == "soft_threshold" and not flat:
                    z = (float(scores[b, i, j]) - np.mean(values)) / np.std(values)
                    n = 1 / (1 + math.exp(-4 * z))
                lifted[b, i, j] = floor + (1 - floor) * n
    result = torch.ones_like(scores)
    for b in range(batch):
        if int(partner[b]) == b:
            continue
        for i in range(rows):
            for j in range(columns):
                own, other = float(lifted[b, i, j]), float(lifted[int(partner[b]), i, j])
                result[b, i, j] = min(alpha, max(own, other))
    return result


def blend(images, partner, ratios, patch_size):
    """Mix pixel by pixel with the ratio of the patch the pixel lies in."""
    mixed = images.clone()
    batch, channels, height, width = images.shape
    for b in range(batch):
        for y in range(height):
            for x in range(width):
                r = float(ratios[b, y // patch_size, x // patch_size])
                for c in range(channels):
                    own, other = float(images[b, c, y, x]), float(images[int(partner[b]), c, y, x])
                    mixed[b, c, y, x] = r * own + (1 - r) * other
    return mixed


def resized_ratios(ratios, patch_size, image_size, grid):
    """Average ratios over the cells of another grid, each cut into slices that no border cuts."""
    height, width = image_size
    result = torch.zeros(len(ratios), *grid, dtype=torch.float64)
    for b in range(len(ratios)):
        for i in range(grid[0]):
            for j in range(grid[1]):
                total = 0.0
                for a in range(height):
                    for c in range(width):
                        y, x = i + (a + 0.5) / height, j + (c + 0.5) / width  # in cells
                        row = int(y * height / grid[0] // patch_size)
                        column = int(x * width / grid[1] // patch_size)
                        total += float(ratios[b, row, column])
                result[b, i, j] = total / (height * width)
    return result


def blend_tokens(tokens, partner, ratios, prefix_tokens):
    """Mix token by token, row by row of the grid, but for those that come first."""
    mixed = tokens.clone()
    weights = ratios.flatten(1)
    for b in range(len(tokens)):
        for n in range(prefix_tokens, tokens.shape[1]):
            r = float(weights[b, n - prefix_tokens])
            for d in range(tokens.shape[2]):
                own, other = float(tokens[b, n, d]), float(tokens[int(partner[b]), n, d])
                mixed[b, n, d] = r * own + (1 - r) * other
    return mixed


def ratio_targets(labels, partner, ratios, patch_size, image_size, num_classes):
    """Count what each pixel got from its own and its partner's image."""
    height, width = image_size
    targets = torch.zeros(len(labels), num_classes, dtype=torch.float64)
    for b in range(len(labels)):
        for y in range(height):
            for x in range(width):
                r = float(ratios[b, y // patch_size, x // patch_size])
                targets[b, int(labels[b])] += r / (height * width)
                targets[b, int(labels[int(partner[b])])] += (1 - r) / (height * width)
    return targets


def fine_grained(levels, half_widths):
    """On and off contrast with the surround of each pixel, in whole grey levels as in OpenCV."""
    values = levels.numpy()
    for _ in range(2):
        for axis in (0, 1):
            # scipy's "mirror" repeats no border pixel, as OpenCV's default border
            values = scipy.ndimage.convolve1d(values, [0.25, 0.5, 0.25], axis, mode="mirror")
        values = np.floor(values + 0.5)
    height, width = values.shape
    on, off = np.zeros_like(values), np.zeros_like(values)
    for half in half_widths:
        for y in range(height):
            for x in range(width):
                square = values[
                    max(0, y - half + 1) : y + half + 1, max(0, x - half + 1) : x + half + 1
                ]
                alone = square.size == 1  # without surround no contrast
                others = square.sum() - values[y, x]
                surround = values[y, x] if alone else others / (square.size - 1)
                on[y, x] += np.floor(max(0.0, values[y, x] - surround))
                off[y, x] += np.floor(max(0.0, surround - values[y, x]))
    both = on / on.max() + off / off.max()
    return torch.from_numpy(both / both.max())


def border_contrast(colours, width, rounds=3):
    """Mahalanobis distance from the border's colours `(C,h,w)`, pixel by pixel."""
    colours = colours.double().numpy()
    channels, rows, columns = colours.shape
    border = np.array(
        [
            colours[:, y, x]
            for y in range(rows)
            for x in range(columns)
            if min(y, x, rows - 1 - y, columns - 1 - x) < width
        ]
    )
    least = 0.1 + 3e-5 * border.var(axis=0).sum()
    weights = np.ones(len(border))
    for later in range(rounds + 1):
        mean = np.average(border, axis=0, weights=weights)
        spread = np.cov(border.T, aweights=weights, ddof=0).reshape(channels, channels)
        spread += least * np.eye(channels)
        inverse = np.linalg.inv(spread)
        if later < rounds:
            weights = np.array([np.exp(-0.5 * (c - mean) @ inverse @ (c - mean)) for c in border])
    result = np.zeros((rows, columns))
    for y in range(rows):
        for x in range(columns):
            centred = colours[:, y, x] - mean
            result[y, x] = np.sqrt(centred @ inverse @ centred)
    return torch.from_numpy(result)


def spectral_residual(grey, floor):
    """Log amplitude minus its local mean, back with the old phase, smoothed and squared."""
    spectrum = np.fft.fft2(grey)
    local_mean = scipy.ndimage.uniform_filter(np.log(np.abs(spectrum) + floor), 3, mode="mirror")
    residual = np.log(np.abs(spectrum)) - local_mean
    phase = np.angle(spectrum)
    energy = np.abs(np.fft.ifft2(np.exp(residual + 1j * phase)))
    weights = np.exp(-(np.arange(-2, 3) ** 2) / (2 * 8.0**2))
    for axis in (0, 1):
        energy = scipy.ndimage.convolve1d(energy, weights / weights.sum(), axis, mode="mirror")
    return energy**2 / (energy**2).max()


def snapshot_of_a_model(model):
    """Describe all that a float32 model is, in values that can be compared."""
    return {
        "state": {
            name: value.cpu().numpy().tobytes() for name, value in model.state_dict().items()
        },
        "same": [id(tensor) for tensor in (*model.parameters(), *model.buffers())],
        "gradients": [
            None if p.grad is None else p.grad.cpu().numpy().tobytes() for p in model.parameters()
        ],
        "trained": [parameter.requires_grad for parameter in model.parameters()],
        "training": [module.training for module in model.modules()],
        "hooks": [
            [list(hooks) for name, hooks in vars(module).items() if name.endswith("_hooks")]
            for module in model.modules()
        ],
    }
