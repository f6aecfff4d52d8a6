"""The batch transform: check, then walk the rooms of the house in order."""

from collections.abc import Callable, MutableMapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, TypeVar, overload

import torch
from torch import Tensor, nn

from spmix_aug import _checks
from spmix_aug.batch import unpack_batch
from spmix_aug.pairing import class_counts_in, draw_at_least_as_frequent
from spmix_aug.patches import (
    NORMALIZATIONS,
    jitter_scores,
    lift_scores,
    mix_ratios,
    own_share,
    patch_grid,
    patch_scores,
)
from spmix_aug.plan import MixPlan
from spmix_aug.saliency import SaliencyProvider, find_provider
from spmix_aug.saliency.base import CoarseSaliency
from spmix_aug.targets import class_distribution, mix_targets

SaliencyFunction = Callable[[Tensor, Tensor | None, nn.Module | None], Tensor]
PairingFunction = Callable[[Tensor, Tensor, torch.Generator | None], Tensor]
Batch = TypeVar("Batch", bound=Sequence[Any] | MutableMapping[str, Any])


class SaliencyPatchMix(nn.Module):
    """Weight each image's salient patches up, and blend the rest with a partner's background.

    Each sample of a batch is its own *tail* image, which keeps its label, and gets the background
    of a *head* image: its partner, drawn from the batch. The salient patches of both decide where
    the own image dominates, so that the partner's object is held down rather than pasted in
    (SPMix, arXiv 2406.10801, section 2.2). The transform has no parameters, never changes its
    input unless `inplace`, and is the identity in `eval()` mode.

    Float images are in [0, 1], or were normalised with the given `mean` and `std`; uint8 images
    are 0 to 255. Model-free saliency sees them in [0, 1], a model and your own callables see them
    as they came.

    Args:
        num_classes: K; not needed with `class_counts`.
        class_counts: training samples of each class, `(K,)`, which say what class is more
            frequent. Without them the counts of each batch do, and a rebalancing sampler
            flattens those: give them whenever you use one.
        saliency: `"spectral_residual"`, `"fine_grained"`, `"border_contrast"`, `"input_gradient"`,
            `"grad_cam"`, a provider of `spmix_aug.saliency`, or any callable `(images, labels,
            model)` that returns maps `(B,H,W)` or `(B,1,H,W)`.
        patch_size: P in pixels; SPMix has 14 patches a side.
        alpha: upper bound of the own image's ratio, in [0, 1].
        floor: lower bound of the own image's ratio before `alpha`, in [0, 1].
        normalize: how an image's patch scores are brought to [0, 1]: `"min_max"` stretches them
            (the papers'), `"soft_threshold"` divides them more clearly into salient and not.
        jitter: standard deviation of the noise on patch scores, in units of the standard
            deviation of that image's own scores.
        p: probability of a sample to be mixed, the same for every class, where it has an
            eligible partner.
        pairing: `"relative"` draws a partner whose class is at least as frequent, `"any"` one of
            all others, a callable `(labels (B,), class_counts (K,), generator)` returns partners
            `(B,)`. A sample without an eligible partner passes through: with `"relative"`, the
            only one of a batch's most frequent class.
        target: `"own"` keeps the label (the papers'), `"ratio"` weights both labels by the share
            of the pixels.
        mean: of the images' normalisation, one number or one a channel.
        std: of the images' normalisation, one number or one a channel.
        image_key: key of the images in dict batches; found by the usual names when None.
        label_key: key of the labels in dict batches; found by the usual names when None.
        inplace: write the mixed images into the given ones.
        generator: source of all draws; torch's global one when None.

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

    saliency: SaliencyProvider | SaliencyFunction
    pairing: str | PairingFunction

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

    def __init__(
        self,
        *,
        num_classes: int | None = None,
        class_counts: Sequence[float] | Tensor | None = None,
        saliency: str | SaliencyProvider | SaliencyFunction = "spectral_residual",
        patch_size: int = 16,
        alpha: float = 0.8,
        floor: float = 0.5,
        normalize: Literal["min_max", "soft_threshold"] = "min_max",
        jitter: float = 0.0,
        p: float = 0.5,
        pairing: Literal["relative", "any"] | PairingFunction = "relative",
        target: Literal["own", "ratio"] = "own",
        mean: float | Sequence[float] | Tensor | None = None,
        std: float | Sequence[float] | Tensor | None = None,
        image_key: str | None = None,
        label_key: str | None = None,
        inplace: bool = False,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.num_classes, counts = _checks.classes(num_classes, class_counts)
        if not callable(pairing):
            _checks.choice("pairing", pairing, ("relative", "any"), " or a callable")
        # Either may be a module or hold one: it must not become a part of this one.
        self.__dict__.update(saliency=find_provider(saliency), pairing=pairing)
        self.patch_size = _checks.integer("patch_size", patch_size)
        self.alpha = _checks.number("alpha", alpha, high=1.0)
        self.floor = _checks.number("floor", floor, high=1.0)
        _checks.choice("normalize", normalize, NORMALIZATIONS)
        self.normalize = normalize
        self.jitter = _checks.number("jitter", jitter, high=1e6)
        self.p = _checks.number("p", p, high=1.0)
        _checks.choice("target", target, ("own", "ratio"))
        self.target = target
        self.class_counts = counts  # no buffers: half() must not round them
        self.mean, self.std = _checks.normalization(mean, std)
        _checks.key("image_key", image_key)
        _checks.key("label_key", label_key)
        self.image_key = image_key
        self.label_key = label_key
        self.inplace = _checks.flag("inplace", inplace)
        _checks.generator(generator)
        self.generator = generator

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
        images, labels, repack = unpack_batch(images, labels, self.image_key, self.label_key)
        if self.inplace:
            _checks.writable(images)  # before anything is drawn
        plan = self.plan(images, labels, model, saliency=saliency, partner=partner)
        own = images.detach() if images.requires_grad else images
        mixed = plan.images(own, inplace=self.inplace)  # (B,C,H,W)
        return repack(mixed, plan.targets)

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

        A plan can mix several things alike; `plan(other_view, labels, partner=plan.partner)`
        plans another view of the same pairs. Arguments and errors are those of a call with
        unpacked `images` and `labels`.
        """
        _checks.images(images, self.mean, self.std)
        images = images.detach()
        batch, image_size = len(images), (images.shape[2], images.shape[3])
        # A larger patch is the whole image, too, but would be written out pixel by pixel.
        patch_size = min(self.patch_size, max(image_size))
        labels = _checks.labels(labels, batch, self.num_classes, images.device)
        if partner is not None:
            partner = _checks.partner(partner, batch, images.device)
        if saliency is not None:
            saliency = _checks.saliency_maps(saliency, images)

        targets = class_distribution(labels, self.num_classes)  # (B,K)
        itself = torch.arange(batch, device=images.device)  # (B,)
        if not self.training or batch == 0 or (self.p == 0 and partner is None):
            ratios = targets.new_ones(batch, *patch_grid(image_size, patch_size))
            return MixPlan(itself, ratios, targets, patch_size, image_size)

        if saliency is None:
            _checks.provider_has_model(self.saliency, model)
            given = labels if labels.ndim == 1 else targets
            saliency = self._saliency_maps(images, given, model)
        saliency = _finite(saliency)  # (B,H,W) or coarser
        # All draws are made here, whatever comes after them is determined.
        if partner is None:
            partner = self._draw_partner(targets.argmax(dim=1), itself)  # (B,)
        noise = self._draw_noise(batch, image_size, images.device)  # (B,gh,gw)

        scores = patch_scores(saliency, patch_size, image_size)  # (B,gh,gw)
        if noise is not None:
            scores = jitter_scores(scores, noise, self.jitter)
        scores = lift_scores(NORMALIZATIONS[self.normalize](scores), self.floor)
        ratios = mix_ratios(scores, scores[partner], self.alpha)  # (B,gh,gw)
        passes = (partner == itself).view(-1, 1, 1)
        ratios = torch.where(passes, 1.0, ratios)
        if self.target == "ratio":
            share = own_share(ratios, patch_size, image_size)  # (B,)
            targets = mix_targets(targets, partner, share)
        return MixPlan(partner, ratios, targets, patch_size, image_size, saliency)

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

    def _draw_partner(self, classes: Tensor, itself: Tensor) -> Tensor:
        """Draw who is mixed and with whom: `(B,)`, itself where a sample passes through."""
        if self.class_counts is None:
            counts = class_counts_in(classes, self.num_classes)  # (K,)
        else:
            counts = self.class_counts.to(classes.device, non_blocking=True)
        if not isinstance(self.pairing, str):  # before anything is drawn, as it may be refused
            partner = _checks.partner(
                self.pairing(classes, counts.clone(), self.generator),
                len(classes),
                classes.device,
                name="the partner that pairing returned",
            )
        gate, pick = self._uniform(2, len(classes)).to(classes.device, non_blocking=True)
        if self.pairing == "relative":
            partner = draw_at_least_as_frequent(counts[classes], pick)
        elif isinstance(self.pairing, str):
            partner = draw_at_least_as_frequent(torch.zeros_like(classes), pick)
        return torch.where(gate < self.p, partner, itself)

    def _draw_noise(
        self, batch: int, image_size: tuple[int, int], device: torch.device
    ) -> Tensor | None:
        """Draw noise of variance 1 for the patch scores, `(B,gh,gw)`; None without jitter."""
        if self.jitter == 0:
            return None
        uniform = self._uniform(batch, *patch_grid(image_size, self.patch_size))
        return ((uniform - 0.5) * 12**0.5).to(device, non_blocking=True)

    def _uniform(self, *shape: int) -> Tensor:
        """Draw from [0, 1) on the generator's device, the CPU by default, so devices agree."""
        device = "cpu" if self.generator is None else self.generator.device
        # Not the default dtype: in bfloat16 most partners would never be drawn.
        return torch.rand(*shape, generator=self.generator, device=device, dtype=torch.float32)

    def _saliency_maps(self, images: Tensor, labels: Tensor, model: nn.Module | None) -> Tensor:
        """Ask the provider for maps `(B,H,W)`, or for coarser ones where it has them."""
        provider: Any = self.saliency  # which kind it is, is asked below
        coarse = (
            isinstance(provider, CoarseSaliency)
            and type(provider).__call__ is CoarseSaliency.__call__  # not overridden
        )
        # Our own take any dtype, and convert no more of the images than they need.
        if getattr(provider, "needs_model", None) is False and not (coarse and self.mean is None):
            images = self._unit_range(images)
        if coarse:
            maps: Tensor = provider.coarse_maps(images, labels, model)
            return maps
        return _checks.saliency_maps(provider(images, labels, model), images)

    def _unit_range(self, images: Tensor) -> Tensor:
        """Bring images back to [0, 1], float32 at least."""
        if images.dtype == torch.uint8:
            return images.float() / 255
        if images.dtype != torch.float64:
            images = images.float()
        if self.mean is None or self.std is None:
            return images
        mean, std = (
            values.to(images.device, images.dtype, non_blocking=True).view(-1, 1, 1)
            for values in (self.mean, self.std)
        )
        return torch.addcmul(mean, images, std)

    def extra_repr(self) -> str:
        """Show the settings in the module's repr."""
        name = getattr(self.saliency, "__name__", type(self.saliency).__name__)
        pairing = self.pairing if isinstance(self.pairing, str) else "callable"
        return (
            f"num_classes={self.num_classes}, saliency={name}, patch_size={self.patch_size}, "
            f"alpha={self.alpha}, floor={self.floor}, normalize={self.normalize!r}, "
            f"jitter={self.jitter}, p={self.p}, pairing={pairing!r}, target={self.target!r}, "
            f"inplace={self.inplace}"
        )

    def __getstate__(self) -> dict[str, Any]:
        """Write the generator as bytes: as a tensor it could not cross into a spawned worker."""
        state = self.__dict__.copy()
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

    def __init__(self, mixer: SaliencyPatchMix, model: nn.Module | None = None) -> None:
        if model is not None:
            _checks.module(model, "model")
        _checks.provider_has_model(mixer.saliency, model)
        self.mixer = mixer
        self.model = model
        self.mixup_enabled = True

    @overload
    def __call__(self, images: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]: ...

    @overload
    def __call__(self, images: Batch, targets: None = None) -> Batch: ...

    def __call__(self, images: Any, targets: Tensor | None = None) -> Any:
        """Mix a batch, see `SaliencyPatchMix.forward`."""
        training = self.mixer.training
        self.mixer.training = training and _checks.flag("mixup_enabled", self.mixup_enabled)
        try:
            return self.mixer(images, targets, self.model)
        finally:
            self.mixer.training = training

    def __repr__(self) -> str:
        """Show the mixer, the model's class and the switch."""
        model = None if self.model is None else type(self.model).__name__
        return f"BoundMix({self.mixer}, model={model}, mixup_enabled={self.mixup_enabled})"


def _finite(saliency: Tensor) -> Tensor:
    """Make maps float32 at least, 0 where they are not finite, and safe to square and sum."""
    if saliency.dtype != torch.float64:
        saliency = saliency.float()
    return saliency.nan_to_num(nan=0.0, posinf=0.0, neginf=0.0).clamp(-1e15, 1e15)
