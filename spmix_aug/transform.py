"""The batch transform: its settings, and the steps of a plan in order."""

import copy
import operator
import warnings
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, TypeVar, overload

import torch
from torch import Tensor, nn

from spmix_aug import _checks
from spmix_aug._checks import expect, expect_type, optional
from spmix_aug._grids import Size
from spmix_aug._guards import LOOKED_AT, LOOKS, findings, mixed_before, stacklevel, value_range
from spmix_aug._random import Home, draw_uniform, generator_here, new_stream
from spmix_aug._workers import (
    NUMBERS,
    already_told,
    new_shared,
    publish_numbers,
    require_settable,
    take_over_numbers,
)
from spmix_aug.batch import unit_range, unpack_batch
from spmix_aug.functional import pairing as pairings
from spmix_aug.functional import patches
from spmix_aug.functional.targets import class_distribution, mix_targets
from spmix_aug.plan import MixPlan
from spmix_aug.saliency import LOW_RES, MODEL_BASED, SaliencyProvider, find_provider
from spmix_aug.saliency.base import finite

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SaliencyFunction = Callable[[Tensor, Tensor | None, nn.Module | None], Tensor]
PairingFunction = Callable[[Tensor, Tensor, torch.Generator | None], Tensor]
Batch = TypeVar("Batch", bound=Sequence[Any] | MutableMapping[str, Any])

PAIRINGS = {"relative": pairings.draw_at_least_as_frequent, "any": pairings.draw_other}
MOST_PLACES = 1_000_000  # of a tuple, from either end


def _as_key(name: str, value: Any) -> Any:
    """Accept the name of an item of a dict batch, its place in a tuple, or None."""
    if isinstance(value, int) and not isinstance(value, bool):
        return _checks.as_integer(name, value, low=-MOST_PLACES, high=MOST_PLACES)
    ok = value is None or isinstance(value, str)
    expect_type(ok, name, "to be a key, a place in a tuple or None", value)
    return value


def _as_pairing(name: str, value: Any) -> Any:
    """Accept the name of a pairing, or a callable."""
    if callable(value):
        return _checks.as_function(name, value, "labels, class_counts, generator")
    return _checks.as_choice(name, value, PAIRINGS, " or a callable")


def _as_generator(name: str, value: object) -> torch.Generator | None:
    """Accept a `torch.Generator` or None."""
    ok = value is None or isinstance(value, torch.Generator)
    hint = "make one with torch.Generator().manual_seed(seed)"
    expect_type(ok, name, "to be a torch.Generator or None", value, hint)
    return value  # type: ignore[return-value]


def _as_std(name: str, value: object) -> Tensor:
    """Accept one positive number, or one for each channel."""
    numbers = _checks.as_channel_values(name, value)
    expect(bool((numbers > 0).all()), name, "to be positive", numbers.tolist())
    return numbers


_share = partial(_checks.as_number, high=1.0)

# What each setting accepts, whenever it is set: `check(name, value)` returns what is kept.
SETTINGS: dict[str, Callable[[str, Any], Any]] = {
    "num_classes": optional(partial(_checks.as_integer, high=_checks.MOST_CLASSES)),
    "class_counts": optional(_checks.as_counts),
    "saliency": lambda _, saliency: find_provider(saliency),
    "patch_size": optional(_checks.as_integer),
    "alpha": _share,
    "floor": _share,
    "normalize": partial(_checks.as_choice, allowed=patches.NORMALIZATIONS),
    "jitter": partial(_checks.as_number, high=1e6),
    "p": _share,
    "pairing": _as_pairing,
    "target": partial(_checks.as_choice, allowed=("own", "ratio")),
    "mean": optional(_checks.as_channel_values),
    "std": optional(_as_std),
    "image_key": _as_key,
    "label_key": _as_key,
    "inplace": _checks.as_flag,
    "generator": _as_generator,
}


class SaliencyPatchMix(nn.Module):
    """Weight each image's salient patches up, and blend the rest with a partner's background.

    Each sample of a batch is its own *tail* image, which keeps its label, and gets the background
    of a *head* image: its partner, drawn from the batch. The salient patches of both decide where
    the own image dominates, so that the partner's object is held down rather than pasted in
    (SPMix, arXiv 2406.10801, section 2.2). The transform has no parameters, never changes its
    input unless `inplace`, and is the identity in `eval()` mode.

    Float images are in [0, 1], or were normalised with the given `mean` and `std`; uint8 images
    are 0 to 255. Saliency sees them in [0, 1], but a provider that `needs_model` and its model see
    them as they came. What may be a mistake about them is warned of, once, in the first calls
    with tensors on the CPU; `check` looks at everything.

    Args:
        num_classes: K; not needed with `class_counts`.
        class_counts: training samples of each class, `(K,)`, or a dict, Counter or Series by class,
            which say what class is more frequent. Without them the counts of each batch do, and a
            rebalancing sampler flattens those: give them whenever you use one.
        saliency: `"border_contrast"`, `"spectral_residual"`, `"fine_grained"`, `"input_gradient"`,
            `"grad_cam"`, a provider of `spmix_aug.saliency`, or any callable `(images, labels,
            model)` that returns maps `(B,H,W)` or `(B,1,H,W)`.
        patch_size: P in pixels; None for the shorter side divided by 14, as in SPMix, rounded, and
            at least 2.
        alpha: upper bound of the own image's ratio, in [0, 1] (no Beta parameter as in mixup).
        floor: lower bound of the own image's ratio, in [0, `alpha`]; equal to `alpha`, all patches
            have that ratio, and no map is computed.
        normalize: how an image's patch scores are brought to [0, 1]: `"min_max"` stretches them
            (the papers'), `"soft_threshold"` divides them more clearly into salient and not.
        jitter: standard deviation of the noise on patch scores, in units of the standard
            deviation of that image's own scores.
        p: probability of a sample to be mixed, the same for every class, where it has an
            eligible partner.
        pairing: `"relative"` draws a partner whose class is at least as frequent, `"any"` one of
            all others, a callable `(labels (B,), class_counts (K,), generator)` returns partners
            `(B,)`. A sample without an eligible partner stays unmixed: with `"relative"`, the
            only one of a batch's most frequent class.
        target: `"own"` keeps the label (the papers'), `"ratio"` weights both labels by the share
            of the pixels.
        mean: of the images' normalisation, one number or one a channel.
        std: of the images' normalisation, one number or one a channel.
        image_key: key of the images in dict batches, or their place in tuples; found by the usual
            names, or in place 0, when None.
        label_key: the same of the labels; in place 1 of tuples when None.
        inplace: write the mixed images into the given ones.
        generator: source of all draws; torch's global one when None. In worker processes each
            worker draws from one of its own, seeded by this one and the loader.

    Raises:
        TypeError: if an argument is of the wrong type.
        ValueError: if an argument is out of its range.

    Example:
        >>> mixer = SaliencyPatchMix(num_classes=7)
        >>> images, labels = torch.rand(8, 3, 64, 64), torch.arange(8) % 7
        >>> mixed, targets = mixer(images, labels)
        >>> mixed.shape, targets.shape
        (torch.Size([8, 3, 64, 64]), torch.Size([8, 7]))
    """

    # Any: assignment accepts more forms than are kept.
    num_classes: Any
    class_counts: Any
    saliency: Any
    patch_size: int | None
    alpha: float
    floor: float
    normalize: str
    jitter: float
    p: float
    pairing: str | PairingFunction
    target: str
    mean: Any
    std: Any
    image_key: Any
    label_key: Any
    inplace: bool
    generator: torch.Generator | None

    def __init__(
        self,
        *,
        num_classes: int | None = None,
        class_counts: Sequence[int] | Mapping[int, int] | Tensor | None = None,
        saliency: str | SaliencyProvider | SaliencyFunction = "border_contrast",
        patch_size: int | None = None,
        alpha: float = 0.8,
        floor: float = 0.5,
        normalize: Literal["min_max", "soft_threshold"] = "min_max",
        jitter: float = 0.0,
        p: float = 0.5,
        pairing: Literal["relative", "any"] | PairingFunction = "relative",
        target: Literal["own", "ratio"] = "own",
        mean: float | Sequence[float] | Tensor | None = None,
        std: float | Sequence[float] | Tensor | None = None,
        image_key: str | int | None = None,
        label_key: str | int | None = None,
        inplace: bool = False,
        generator: torch.Generator | None = None,
    ) -> None:
        given = locals()
        super().__init__()
        for name in SETTINGS:
            setattr(self, name, given[name])
        self._stream, self._home, self._shared = new_stream(self), Home.here(), new_shared()
        self._fetcher, self._epochs, self._looks = None, 0, LOOKS
        self._collates = False  # whether a `SaliencyPatchMixCollate` has it
        self._require_fitting()
        publish_numbers(self)

    def __setattr__(self, name: str, value: Any) -> None:
        """Check a setting whenever it is set; modules and tensors among them are not registered."""
        made = "_looks" in self.__dict__  # else the constructor is at work
        if name not in SETTINGS:
            super().__setattr__(name, value)
        else:
            value = SETTINGS[name](name, value)
            if made and name not in NUMBERS:
                require_settable(self, name)
            # A module would be registered by nn.Module, and a tensor rounded by half().
            self.__dict__[name] = value
        if made and name in NUMBERS:
            publish_numbers(self)
        if made and name in LOOKED_AT and self._looks >= 0:
            self._looks = LOOKS

    def _require_fitting(self) -> None:
        """Check the settings that depend on each other: here, so that any may be set first."""
        number, counts = self.num_classes, self.class_counts
        if number is None and counts is not None:
            number = self.num_classes = len(counts)
        hint = "give class_counts=sampler.class_counts, or those of your labels"
        expect(number is not None, "num_classes", "or `class_counts`", "neither", hint)
        given = number if counts is None else len(counts)
        wanted, hint = "to have `num_classes` = {number} counts", "give one of the two"
        if given < number:
            hint += f", or spmix_aug.class_counts(labels, {number}), 0 where a class has no sample"
        expect(given == number, "class_counts", wanted, given, hint, number=number)
        _checks.require_together(self.mean, self.std)
        wanted = "to be at least `floor`, {floor:g}"
        hint = "it bounds the own image's ratio (0.8 in the papers), and is no Beta parameter as "
        hint += "in mixup; a uniform ratio r is floor=r, alpha=r"
        expect(self.alpha >= self.floor, "alpha", wanted, self.alpha, hint, floor=self.floor)

    def forward(
        self,
        images: Any,
        labels: Tensor | None = None,
        model: nn.Module | None = None,
        *,
        saliency: Tensor | None = None,
        partner: Tensor | None = None,
    ) -> Any:
        """Mix a batch.

        Args:
            images: `(B,C,H,W)`; or a whole batch, a tuple or list `(images, labels, ...)` or a
                dict, which comes back in the same form with its other items untouched.
            labels: class indices `(B,)` or `(B,1)`, one-hot or soft rows `(B,K)`; None with a
                whole batch.
            model: the classifier, for saliency that needs one.
            saliency: maps `(B,H,W)` or `(B,1,H,W)` computed elsewhere, instead of the provider's.
            partner: `(B,)`, mix sample i with `partner[i]` whatever pairing and `p` say; i itself
                leaves it unmixed.

        Returns:
            `(mixed, targets)`: detached images like the given ones, and targets `(B,K)`, whose
            rows sum to 1, float32 or, for float64 rows, float64.

        Raises:
            TypeError: if an argument is of the wrong type.
            ValueError: if shapes or devices do not fit, or, on CPU tensors, values.
        """
        given: Any = {"model": model, "saliency": saliency, "partner": partner}
        return self._mix(images, labels, self.inplace, **given)

    if TYPE_CHECKING:  # a module's own __call__ returns Any

        @overload
        def __call__(
            self,
            images: Tensor,
            labels: Tensor,
            model: nn.Module | None = None,
            *,
            saliency: Tensor | None = None,
            partner: Tensor | None = None,
        ) -> tuple[Tensor, Tensor]: ...

        @overload
        def __call__(
            self,
            images: Batch,
            labels: None = None,
            model: nn.Module | None = None,
            *,
            saliency: Tensor | None = None,
            partner: Tensor | None = None,
        ) -> Batch: ...

        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            """Mix a batch, see `forward`."""

    def _mix(
        self,
        batch: Any,
        labels: Any,
        inplace: bool,
        off: bool = False,
        collating: bool = False,
        **given: Any,
    ) -> Any:
        """Mix a batch in any form by what is `given` to `plan`; `off` leaves it as it is."""
        images, labels, rebuild = unpack_batch(batch, labels, self.image_key, self.label_key)
        twice = self._collates and self.training and not (collating or off) and self._looks > 0
        if twice and mixed_before(labels):
            self._look([mixed_before(labels)])
        if inplace:
            _checks.require_writable(images)  # before anything is drawn
        if off:
            own, _, targets = self._checked(images, labels)
            return rebuild(images if inplace else own.clone(), targets)
        plan = self.plan(images, labels, **given)
        # Only where it has to be: in place, the very tensor that was given comes back.
        own = images.detach() if images.requires_grad else images
        return rebuild(plan._blend(own, inplace), plan.targets)

    def plan(
        self,
        images: Tensor,
        labels: Tensor | None,
        model: nn.Module | None = None,
        *,
        saliency: Tensor | None = None,
        partner: Tensor | None = None,
    ) -> MixPlan:
        """Decide what is mixed with what and how strongly, without mixing yet.

        One plan can mix several things; `plan(other_view, labels, partner=plan.partner)` plans
        another view of the same pairs. Arguments and errors are those of a call with unpacked
        `images` and `labels`.
        """
        images, labels, targets = self._checked(images, labels)
        size, patch_size = self._sizes(images)
        if saliency is not None:
            saliency = _checks.as_maps(saliency, images)
        if partner is not None:
            partner = _checks.as_partner(partner, len(images), images.device)
        if not self.training or len(images) == 0 or (self.p == 0 and partner is None):
            return MixPlan._nothing(targets, patch_size, size)

        # 1. Where is the object?
        maps = self._maps(images, labels, targets, model) if saliency is None else saliency
        if _checks.reads_values(images) and self._looks > 0:  # in this order, for torch.compile
            given = saliency is not None
            classes = targets.argmax(dim=1)
            self._look(findings(self, images, classes, patch_size, maps, given, all_pixels=False))
        if saliency is not None or type(self.saliency) not in LOW_RES:  # ours are finite
            maps = finite(maps if maps.dtype == torch.float64 else maps.float())

        # 2. Who is mixed with whom? All that is random in a plan is drawn here.
        itself = torch.arange(len(images), device=images.device)  # (B,)
        grid = patches.patch_grid(size, patch_size)
        classes = labels if labels.ndim == 1 else targets.argmax(dim=1)
        partner, noise = self._draw(classes, itself, partner, grid)

        # 3. How strongly, patch by patch? (SPMix, equations 1 to 3)
        scores = patches.patch_scores(maps, patch_size, size)  # (B,gh,gw)
        if noise is not None:
            scores = patches.add_noise(scores, noise, self.jitter)
        scores = patches.raise_floor(patches.NORMALIZATIONS[self.normalize](scores), self.floor)
        ratios = patches.mix_ratios(scores, scores[partner], self.alpha)  # (B,gh,gw)
        ratios = ratios.masked_fill((partner == itself).view(-1, 1, 1), 1.0)

        # 4. Which label?
        if self.target == "ratio":
            targets = mix_targets(targets, partner, patches.mean_ratio(ratios, patch_size, size))

        return MixPlan(partner, ratios, targets, patch_size, size, maps, self.mean, self.std)

    def _checked(self, images: Any, labels: Any) -> tuple[Tensor, Tensor, Tensor]:
        """Check images and labels; return them and the labels as distributions `(B,K)`."""
        if not torch.compiler.is_compiling():
            take_over_numbers(self)
        self._require_fitting()
        images = _checks.require_images(images, self.mean, self.std).detach()
        labels = _checks.as_labels(labels, len(images), self.num_classes, images.device)
        return images, labels, class_distribution(labels, self.num_classes)

    def _sizes(self, images: Tensor) -> tuple[Size, int]:
        """Height and width of images, and the side of their patches, in pixels."""
        # An index is a number also while compiling for any size: one graph for each size of images.
        size = operator.index(images.shape[2]), operator.index(images.shape[3])
        # A larger patch is the whole image, too, but would be written out pixel by pixel.
        patch_size = min(self.patch_size or max(2, round(min(size) / 14)), max(size))
        return size, operator.index(patch_size)

    def _maps(
        self, images: Tensor, labels: Tensor, targets: Tensor, model: nn.Module | None
    ) -> Tensor:
        """Ask the provider for maps `(B,H,W)`, or one of our own for coarser ones `(B,h,w)`."""
        provider: Any = self.saliency
        _checks.require_model(provider, model)
        if self.floor == self.alpha:  # a uniform ratio, whatever the map
            return torch.ones((len(images), 1, 1), dtype=torch.float32, device=images.device)
        # Our own take any dtype, and convert no more of the images than they need. Not a class that
        # a user derived from one: what it overrides is to be called.
        if type(provider) in LOW_RES:
            if self.mean is not None:
                images = unit_range(images, self.mean, self.std)
            maps: Tensor = provider.low_res_maps(images)
            return maps
        if type(provider) not in MODEL_BASED:
            given = images
            if not _checks.needs_model(provider):
                images = unit_range(images, self.mean, self.std)
            # A function of the user's own may write into what it is given.
            images = images.clone() if images is given else images
        # Our own read the number of logits off rows; others get indices where they were given.
        rows = labels.ndim == 2 or type(provider) in MODEL_BASED
        given = targets if rows else labels.clone()
        call = _call_uncompiled if _checks.needs_model(provider) else _call
        return _checks.as_maps(call(provider, images, given, model), images)

    def _look(self, found: list[str]) -> None:
        """Warn once of what may be a mistake, on the first calls with tensors on the CPU."""
        self._looks -= 1
        if found:
            self._looks = -1  # never again
            if already_told(self):
                return
            hint = "mixer.check(images, labels) looks at everything."
            warnings.warn("\n".join([*found, hint]), stacklevel=stacklevel())

    def check(self, images: Tensor, labels: Tensor, model: nn.Module | None = None) -> None:
        """Look at every value of a batch, on any device, and print what is found.

        Nothing is drawn, mixed or changed.

        Args:
            images: `(B,C,H,W)`.
            labels: as for a call.
            model: the classifier, for saliency that needs one.

        Raises:
            TypeError: as a call does.
            ValueError: as a call does, also for values on an accelerator.
        """
        images, labels, targets = self._checked(images, labels)
        _checks.as_labels(labels.cpu(), len(images), self.num_classes, torch.device("cpu"))
        maps = self._maps(images, labels, targets, model).cpu()
        images, classes = images.cpu(), targets.argmax(dim=1).cpu()
        size, patch_size = self._sizes(images)
        rows, columns = patches.patch_grid(size, patch_size)
        low, high = images.aminmax() if images.numel() else (0.0, 0.0)
        in_batch = pairings.class_counts_in(classes, self.num_classes)
        by = "this batch's, as no class_counts are given"
        counts = by if self.class_counts is None else self.class_counts.tolist()
        doubt = value_range(images, self.mean, self.std)[1]
        found = findings(self, images, classes, patch_size, maps, False, all_pixels=True)
        print(
            f"images: {tuple(images.shape)}, {images.dtype}, from {low:.4g} to {high:.4g}",
            f"patches: {rows} x {columns} of {patch_size} pixels",
            f"classes: {in_batch.tolist()} in this batch; frequencies: {counts}",
            *([doubt] if doubt else []),
            *(found or ["nothing found that looks like a mistake"]),
            sep="\n",
        )

    def plot(
        self,
        images: Tensor,
        labels: Tensor,
        model: nn.Module | None = None,
        *,
        rows: int = 4,
        class_names: Sequence[str] | None = None,
    ) -> "Figure":
        """Draw pairs of a batch in hand, the rarest classes first, every one mixed.

        Drawn whatever `p` is, and also in `eval()` mode, with pairs of its own that are the same
        each time: neither the mixer nor a generator moves. Needs matplotlib.

        Args:
            images: `(B,C,H,W)`.
            labels: as for a call.
            model: the classifier, for saliency that needs one.
            rows: pairs to draw; all when there are fewer.
            class_names: a name for each of the K classes; their numbers when None.

        Returns:
            A figure as `spmix_aug.viz.plot_plan` draws it.

        Raises:
            TypeError: if an argument is of the wrong type.
            ValueError: as a call does, or if no sample of the batch has a partner.
        """
        from spmix_aug.viz import plot_plan  # matplotlib is an extra

        shown = copy.copy(self).train()
        shown.p, shown.generator = 1.0, torch.Generator().manual_seed(0)
        plan = shown.plan(images, labels, model)
        classes = self._checked(images, labels)[2].argmax(dim=1).cpu()
        counts = self.class_counts
        if counts is None:
            counts = pairings.class_counts_in(classes, self.num_classes)
        order = counts[classes].argsort(stable=True).tolist()
        mixed = [i for i in order if plan.partner[i] != i]
        mixed = _differing(images, plan.partner, mixed, _checks.as_integer("rows", rows))
        wanted, hint = "to have a sample with a partner", "give a larger batch, or other `pairing`"
        expect(bool(mixed), "images", wanted, f"{len(images)} that have none", hint)
        return plot_plan(images, plan, labels, samples=mixed, class_names=class_names)

    def _draw(
        self, classes: Tensor, itself: Tensor, partner: Tensor | None, grid: tuple[int, int]
    ) -> tuple[Tensor, Tensor | None]:
        """Draw partners `(B,)`, and noise of variance 1 for the scores where there is jitter.

        A partner that is given stays; a sample that stays unmixed is its own.
        """
        batch, device = len(classes), classes.device
        gates = 2 * batch if partner is None else 0
        if partner is None:
            if self.class_counts is None:
                counts = pairings.class_counts_in(classes, self.num_classes)  # (K,)
            else:
                counts = self.class_counts.to(device, non_blocking=True)
            if not isinstance(self.pairing, str):  # before the draws, as it may be refused
                # A function of the user's own may write into what it is given.
                proposed = self.pairing(classes.clone(), counts.clone(), generator_here(self))
                name = "the partner that pairing returned"
                proposed = _checks.as_partner(proposed, batch, device, name)
        cells = batch * grid[0] * grid[1] if self.jitter > 0 else 0
        uniform = draw_uniform(self, gates + cells).to(device, non_blocking=True)
        if partner is None:
            gate, pick = uniform[:batch], uniform[batch:gates]
            if isinstance(self.pairing, str):
                proposed = PAIRINGS[self.pairing](counts[classes], pick)
            partner = proposed if self.p == 1 else torch.where(gate < self.p, proposed, itself)
        if cells == 0:
            return partner, None
        return partner, (uniform[gates:].view(batch, *grid) - 0.5) * 12**0.5

    def bind(self, model: nn.Module | None = None) -> "BoundMix":
        """Make a callable `(images, targets) -> (mixed, targets)` that brings the model along.

        For loops that know nothing of a model in their mixing, as timm's `mixup_fn`. It holds this
        mixer and this model themselves, so that it follows both.

        Args:
            model: the classifier; None for saliency that needs none.

        Raises:
            TypeError: if `model` is no module.
            ValueError: if it is None and saliency needs one.
        """
        return BoundMix(self, model)

    def extra_repr(self) -> str:
        """Show the settings in the module's repr."""
        return ", ".join(f"{name}={_named(getattr(self, name))}" for name in SETTINGS)

    def __getstate__(self) -> dict[str, Any]:
        """Write the generator as bytes: as a tensor it could not cross into a spawned worker.

        Torch's own pickle of a generator fails there in the versions that we admit
        (pytorch/pytorch issue 146828).
        """
        state = {**self.__dict__, "_fetcher": None}
        if not self._home.is_away():
            state["_home"] = Home.here()
        if self.generator is not None:
            saved = bytes(self.generator.get_state().tolist())
            state["generator"] = (str(self.generator.device), saved)
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Read back what `__getstate__` wrote."""
        if state["generator"] is not None:
            device, saved = state["generator"]
            generator = torch.Generator(device)
            generator.set_state(torch.frombuffer(bytearray(saved), dtype=torch.uint8))
            state = {**state, "generator": generator}
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        self._stream = new_stream(self)
        if not self._home.is_away():  # a copy, or read from a file
            self._home, self._shared = Home.here(), new_shared()
            publish_numbers(self)


def _differing(images: Tensor, partner: Tensor, samples: list[int], most: int) -> list[int]:
    """Choose samples in their order, images that were drawn twice into the batch last.

    Also last is an image beside itself.
    """
    new: list[int] = []
    again: list[int] = []
    for i in samples:
        others = [*new, int(partner[i])]
        (again if any(torch.equal(images[i], images[j]) for j in others) else new).append(i)
        if len(new) == most:
            break
    return (new + again)[:most]


def _call(provider: Any, images: Tensor, labels: Tensor, model: nn.Module | None) -> Any:
    return provider(images, labels, model)


# What a model's saliency does to leave it as it was cannot be compiled: the graph breaks around it.
_call_uncompiled = torch.compiler.disable(_call)  # type: ignore[no-untyped-call]


def _named(value: object) -> str:
    """Write a setting out for the repr."""
    if callable(value):
        return getattr(value, "__name__", type(value).__name__)
    return repr(value.tolist() if isinstance(value, Tensor) else value)


@dataclass(eq=False)
class BoundMix:
    """A mixer and its model as one callable, made by `SaliencyPatchMix.bind`.

    No module, so that assigning it to one registers neither mixer nor model. Copies and pickles
    hold a model of their own, which training does not reach.

    Attributes:
        mixer: the `SaliencyPatchMix`.
        model: the classifier that saliency looks at, or None.
        mixup_enabled: False switches mixing off as `mixer.eval()` does, here alone: images come
            back as they are and targets as rows `(B,K)`.
    """

    mixer: SaliencyPatchMix
    model: nn.Module | None = None
    mixup_enabled: bool = True

    def __post_init__(self) -> None:
        """Check the model."""
        if self.model is not None:
            _checks.as_instance("model", self.model, nn.Module)
        _checks.require_model(self.mixer.saliency, self.model)

    @overload
    def __call__(self, images: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]: ...

    @overload
    def __call__(self, images: Batch, targets: None = None) -> Batch: ...

    def __call__(self, images: Any, targets: Tensor | None = None) -> Any:
        """Mix a batch, see `SaliencyPatchMix.forward`."""
        off = not _checks.as_flag("mixup_enabled", self.mixup_enabled)
        return self.mixer._mix(images, targets, self.mixer.inplace, off, model=self.model)

    def __repr__(self) -> str:
        """Show the mixer, the model's class and the switch."""
        model = None if self.model is None else type(self.model).__name__
        return f"BoundMix({self.mixer}, model={model}, mixup_enabled={self.mixup_enabled})"
