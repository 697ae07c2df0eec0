"""The light that comes from the surfaces of virtual worlds: texture, patterns, sun and shadow, reflections, haze.

Works on the pixels that show something, as flat arrays of P. Textures and patterns are averaged over what a pixel
covers of them, so that far ground does not flicker.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from fg_depth_ros.synthesis.world.asset_library import AssetLibrary
from fg_depth_ros.synthesis.world.outlines import spans_of
from fg_depth_ros.synthesis.world.primitives import COLUMN, Kind, Scene
from fg_depth_ros.synthesis.world.ray_casting import (
    BOX_EDGES,
    FACES,
    Candidates,
    RayHits,
    Shot,
    axes_of,
    corners_of,
    groups_of,
    half_of,
    opaque,
    visible_primitives,
)
from fg_depth_ros.synthesis.world.surfaces import Surface, surface_of

_CLOSE = 0.8  # m: how far from a thing its surroundings are darker
_CLOSE_DARK = 0.5  # of the scattered light that is taken away right next to a large thing
_OWN_SKIN = 0.02  # m: a surface does not shade itself
_UPRIGHT = 0.75  # of the normal's vertical part: what has less is no ground and no roof
_VIRTUAL = 12.0  # m: how far away lies what glossy things reflect


class Shader:
    """Colours the hits of a ray cast; one per set of scenes and images."""

    def __init__(self, shot: Shot, scenes: Sequence[Scene], assets: AssetLibrary, device: torch.device) -> None:
        self.shot, self.scenes, self.assets, self.device = shot, scenes, assets, device
        self._table = self._on_device(shot.rows.T)

    def _on_device(self, values: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(values)).to(self.device, torch.float32)

    def shade(
        self, seen: RayHits, reflected: torch.Tensor | None = None, where: torch.Tensor | None = None
    ) -> torch.Tensor:
        """N x H x W x 3 float32 light, 0..255 and above, of what the pixels show.

        ``reflected``: N x H x W x 3, what horizontal mirrors show. ``where``: N x H x W bool, the only pixels that
        matter (black elsewhere); None: all of them.
        """
        n, height, width = seen.depth.shape
        solid = seen.item.view(-1) >= 0
        pixel = (solid if where is None else solid & where.view(-1)).nonzero()[:, 0]
        flat = torch.zeros((n * height * width, 3), device=self.device)
        empty = (~solid if where is None else ~solid & where.view(-1)).nonzero()[:, 0]
        if len(empty):
            flat[empty] = self._sky(empty)
        if not len(pixel):
            return flat.view(n, height, width, 3)
        item, depth = seen.item.view(-1)[pixel], seen.depth.view(-1)[pixel]
        surface = surface_of(self.shot, self._table, pixel, item, depth)
        light, gloss = self._albedo(surface)
        light *= self._lighting(surface, self._shadows(seen, surface))
        shiny = (gloss > 0.01).nonzero()[:, 0]
        if len(shiny):
            light[shiny] = self._reflect(light[shiny], gloss[shiny], Surface(*(part[shiny] for part in surface)))
        if reflected is not None:
            mirror = self._of("mirror", surface)
            wet = (mirror > 0).nonzero()[:, 0]
            strength = _fresnel(Surface(*(part[wet] for part in surface)), mirror[wet]).unsqueeze(1)
            light[wet] = torch.lerp(light[wet], reflected.view(-1, 3)[surface.pixel[wet]], strength)
        clear = torch.exp(-surface.depth / self._each("haze", surface.sample)).unsqueeze(1)
        flat[surface.pixel] = torch.lerp(self._horizon(surface.sample), light, clear)
        return flat.view(n, height, width, 3)

    # ---- colour ------------------------------------------------------------------------------------------------

    def _albedo(self, s: Surface) -> tuple[torch.Tensor, torch.Tensor]:
        """P x 3 colour of the surfaces, and P gloss."""
        # A pixel covers a long strip of a surface seen from the side: averaged between its width and its length.
        foot = torch.maximum((s.foot_u * s.foot_v).sqrt(), torch.maximum(s.foot_u, s.foot_v) / 4)
        size, scale = self.assets.textures.size, self._of("scale", s)
        upright = s.normal[:, 1].abs() < _UPRIGHT
        # Ground runs through from one slab to the next.
        through = ~upright & (self._of("body", s) == 0)
        tu = torch.where(through, s.at[:, 0], s.u).mul_(scale).add_(self._of("tex_u", s))
        tv = torch.where(through, s.at[:, 2], s.v).mul_(scale).add_(self._of("tex_v", s))
        texels = foot * scale
        fit = (self._of("fit", s) > 0).nonzero()[:, 0]
        if len(fit):  # a picture, once over the whole face
            tu[fit], tv[fit] = ((unit[fit] + 1) * (size / 2) - 0.5 for unit in (s.unit_u, s.unit_v))
            sides = self._table[COLUMN["hx"] : COLUMN["hy"] + 1][:, s.item[fit]]
            texels[fit] = foot[fit] * size / (2 * sides.amin(0))
        colour = self.assets.textures.sample(self._of("image", s).long(), tu, tv, texels)
        cutout = self._of("cutout", s)
        own = ((cutout >= 0) & (cutout < self.assets.cutouts.photos)).nonzero()[:, 0]
        if len(own):  # cut-outs that are photos have their own colours
            side = self.assets.cutouts.size
            cu, cv = ((unit[own] + 1) * (side / 2) - 0.5 for unit in (s.unit_u, s.unit_v))
            half = self._table[COLUMN["hx"] : COLUMN["hy"] + 1][:, s.item[own]]
            texels = foot[own] * side / (2 * half.amin(0))
            colour[own] = self.assets.cutouts.colours.sample(cutout[own].long(), cu, cv, texels)
        gain = self._of("gain", s).unsqueeze(1)
        mean = self._table[COLUMN["red"] : COLUMN["blue"] + 1].T[s.item]
        colour = colour.sub_(128).mul_(gain).add_(mean).clamp_(2, 255)
        return self._patterned(s, upright, colour)

    def _patterned(self, s: Surface, upright: torch.Tensor, colour: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Windows, tiles, dashes laid over P x 3 colours; and the gloss with theirs."""
        gloss, strength = self._of("gloss", s), self._of("pattern", s)
        flat_top = ~upright & (self._of("kind", s) == Kind.BOX)
        where = ((strength != 0) & ~flat_top).nonzero()[:, 0]
        if not len(where):
            return colour, gloss
        item, force = s.item[where], strength[where]
        of = lambda name: self._table[COLUMN[name]][item]  # noqa: E731
        frame = of("frame")
        inner, outer = torch.ones_like(force), torch.ones_like(force)
        framed = bool((frame > 0).any())
        for name, place, foot in (("u", s.u[where], s.foot_u[where]), ("v", s.v[where], s.foot_v[where])):
            period, duty = of(f"period_{name}"), of(f"duty_{name}")
            at, blur = (place - of(f"start_{name}")) / period, foot / period
            inner *= covered(at, blur, duty)
            if framed:
                edge = frame / period
                outer *= covered(at + edge, blur, duty + 2 * edge)
        cover = torch.where(force < 0, 1 - inner, inner) * force.abs()
        tone = torch.stack([of(f"pattern_{name}") for name in ("red", "green", "blue")], 1)
        plain = colour[where]
        if framed:
            border = (outer - inner).clamp_(min=0) * (frame > 0)
            plain += (225 - plain) * (0.8 * border).unsqueeze(1)
        colour[where] = torch.lerp(plain, tone, cover.unsqueeze(1))
        gloss[where] = torch.lerp(gloss[where], of("pattern_gloss"), cover)
        return colour, gloss

    # ---- light -------------------------------------------------------------------------------------------------

    def _lighting(self, s: Surface, shadow: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        """P x 3 factors of the colours."""
        open_, sunny = shadow
        # Scattered light comes from above; a little is thrown back by the ground.
        light = self._each("sky", s.sample) * ((0.8 - 0.2 * s.normal[:, 1]) * open_).unsqueeze(1)
        if any(max(scene.light.sun) > 0 for scene in self.scenes):
            facing = (s.normal * self._each("towards", s.sample)).sum(1)
            # Cut-outs stand for round things, which have a lit side whatever the direction of their plane.
            facing = torch.where(self._of("cutout", s) >= 0, 0.35 + 0.3 * facing.abs(), facing.clamp(min=0))
            light = light + self._each("sun", s.sample) * (facing * sunny).unsqueeze(1)
        lamps = max(len(scene.light.lamps) for scene in self.scenes)
        if lamps:
            table = np.zeros((len(self.scenes), lamps, 4))
            table[:, :, 3] = 1e-3
            for n, scene in enumerate(self.scenes):
                if scene.light.lamps:
                    table[n, : len(scene.light.lamps)] = scene.light.lamps
            strength = self._each("lamp", s.sample)
            for lamp in self._on_device(table).unbind(1):
                near = lamp[s.sample] if len(lamp) > 1 else lamp
                away = near[:, :3] - s.at
                square = (away * away).sum(1).clamp_(min=2.5e-3)
                facing = ((away * s.normal).sum(1) * square.rsqrt()).clamp_(min=0)
                light = light + strength * (facing * open_ / (0.3 + square / near[:, 3] ** 2)).unsqueeze(1)
        glow = self._of("glow", s).unsqueeze(1)
        return torch.lerp(light, torch.ones_like(light), glow)

    def _shadows(self, seen: RayHits, s: Surface) -> tuple[torch.Tensor, torch.Tensor]:
        """Parts of the scattered light and of the sun that reach P pixels.

        Worked out for every other pixel of every other row; those between take the mean of two neighbours, as far as
        these show the same primitive.
        """
        coarse = self.shot.halved()
        depth = torch.where(seen.item >= 0, seen.depth, 0.0)[:, ::2, ::2].reshape(-1)
        owner = seen.item[:, ::2, ::2].reshape(-1)
        dark, sunless = torch.zeros_like(depth), torch.zeros_like(depth)
        self._darken(coarse, dark, depth, owner)
        self._cast_shadows(coarse, sunless, depth)
        open_, sunny = torch.exp(-dark), (sunless == 0).float()
        width, area = self.shot.width, self.shot.width * self.shot.height
        y, x = s.pixel % area // width, s.pixel % width
        above = (s.sample * coarse.height + y // 2) * coarse.width + x // 2
        right = ((x + 1) // 2).clamp_(max=coarse.width - 1)
        below = (s.sample * coarse.height + ((y + 1) // 2).clamp_(max=coarse.height - 1)) * coarse.width + right
        # Where neither is on the same thing, the mean of both has to do.
        first, second = ((owner[at] == s.item).float().add_(1e-6) for at in (above, below))
        share = second / (first + second)
        return torch.lerp(open_[above], open_[below], share), torch.lerp(sunny[above], sunny[below], share)

    def _darken(self, shot: Shot, dark: torch.Tensor, depth: torch.Tensor, owner: torch.Tensor) -> None:
        """Add to ``dark`` what things take of the light that comes from all sides to their surroundings."""
        half = half_of(shot.rows) * np.where((shot.column("kind") == Kind.RECT)[:, None], [1.0, 1.0, 0.0], 1.0)
        strength = _CLOSE_DARK * np.clip(np.sort(half_of(shot.rows), 1)[:, 1] / 0.3, 0.1, 1)
        # What is smaller than a few pixels is not worth the work.
        wanted = (shot.column("shade") % 2 > 0) & (_CLOSE * shot.focal > 2 * (shot.distance - half.max(1)))
        outlines = shot.outlines(corners_of(shot.rows, _CLOSE), BOX_EDGES, wanted)
        spans = spans_of(outlines, shot.sample, shot.width, shot.height, self.device)
        stretch = half_of(shot.rows)
        for _, c in groups_of(shot, spans, np.where(wanted, 0, -1)):
            t = depth[c.pixel]
            square = torch.zeros_like(t)
            for i in range(3):
                at = torch.addcmul(
                    c.of(shot.start[:, i] * stretch[:, i]), t, c.along(shot.rays[:, i] * stretch[:, i : i + 1])
                )
                square = square.addcmul_(*(at.abs_().sub_(c.of(half[:, i])).clamp_(min=0),) * 2)
            near = (1 - square.sqrt_() / _CLOSE).clamp_(min=0).square_().mul_(c.of(strength))
            dark.index_add_(0, c.pixel, near.masked_fill_(owner[c.pixel] == c.item, 0.0))

    def _cast_shadows(self, shot: Shot, sunless: torch.Tensor, depth: torch.Tensor) -> None:
        """Add to ``sunless`` the number of things between each pixel's place and the sun."""
        sunny = np.array([max(scene.light.sun) > 0 for scene in self.scenes])[shot.sample]
        wanted = sunny & (shot.column("shade") >= 2) & visible_primitives(shot, 0.75)
        if not wanted.any():
            return
        towards = np.array([scene.light.towards for scene in self.scenes])[shot.sample]
        corners = corners_of(shot.rows)
        # Down to the ground, and a little below it for what is lower.
        reach = (corners[..., 1] - 0.1) / np.minimum(towards[:, None, 1], -0.05)
        thrown = corners - towards[:, None] * np.maximum(reach, 0)[..., None]
        edges = np.concatenate([BOX_EDGES, BOX_EDGES + 8, np.stack([np.arange(8), np.arange(8) + 8], 1)])
        outlines = shot.outlines(np.concatenate([corners, thrown], 1), edges, wanted)
        spans = spans_of(outlines, shot.sample, shot.width, shot.height, self.device)
        to_sun = np.einsum("gji,gj->gi", axes_of(shot.rows), towards) / half_of(shot.rows)
        kinds = np.where(shot.column("kind") == Kind.RECT, np.where(shot.holed, 0, 10), shot.column("kind"))
        for kind, c in groups_of(shot, spans, np.where(wanted, kinds, -1).astype(int)):
            t = depth[c.pixel]
            at = [torch.addcmul(o, t, d) for o, d in zip(c.start(), c.direction(), strict=True)]
            blocked = self._blocks(shot, kind, c, at, to_sun)
            sunless.index_add_(0, c.pixel, blocked.float())

    def _blocks(self, shot: Shot, kind: int, c: Candidates, o: list[torch.Tensor], to_sun: np.ndarray) -> torch.Tensor:
        """Find the places ``o`` that the primitive shades from the sun in direction G x 3 ``to_sun``; C bool."""
        d = [c.of(to_sun[:, i]) for i in range(3)]
        if kind in (Kind.RECT, 10):
            s = -o[2] / d[2]
            x, y = o[0] + s * d[0], o[1] + s * d[1]
            hit = (s > _OWN_SKIN) & (x.abs() <= 1) & (y.abs() <= 1)
            return hit if kind == 10 else hit & opaque(c, shot, self.assets.cutouts, [x, y])
        if kind == Kind.BOX:
            enter, leave = torch.full_like(o[0], -torch.inf), torch.full_like(o[0], torch.inf)
            for name, axis, sign in FACES:
                half = c.field(name) / 2 if name else torch.zeros((), device=self.device)
                value = sign * o[axis] - 1 + half * (1 - o[1])
                slope = sign * d[axis] - half * d[1]
                s = -value / slope
                enter = torch.where(slope < 0, torch.maximum(enter, s), enter)
                leave = torch.where(slope > 0, torch.minimum(leave, s), leave)
            return (enter < leave) & (leave > _OWN_SKIN)
        ball = kind == Kind.ELLIPSOID
        round_ = (0, 1, 2) if ball else (0, 2)
        a = torch.stack([d[i] * d[i] for i in round_]).sum(0)
        middle = -torch.stack([o[i] * d[i] for i in round_]).sum(0) / a
        p = [o[i] + middle * d[i] for i in range(3)]
        rest = 1 - torch.stack([p[i] * p[i] for i in round_]).sum(0)
        hit = (rest > 0) & (middle + (rest.clamp(min=0) / a).sqrt() > _OWN_SKIN)
        return hit if ball else hit & (p[1].abs() <= 1)

    def _reflect(self, light: torch.Tensor, gloss: torch.Tensor, s: Surface) -> torch.Tensor:
        """Sample what glossy surfaces reflect: the image of something ``_VIRTUAL`` metres away, or the sky."""
        ray = s.ray / s.ray.norm(dim=1, keepdim=True)
        bounced = ray - 2 * (ray * s.normal).sum(1, keepdim=True) * s.normal
        there = s.at + _VIRTUAL * bounced
        images = self._on_device(np.array([scene.surroundings for scene in self.scenes])).long()
        picture = self.assets.textures.sample(
            images[s.sample], (there[:, 0] + there[:, 2]) * 40, there[:, 1] * 40, s.foot_u * 40 + 0.5
        )
        up = (-bounced[:, 1:2] * 3).clamp(0, 1)
        dimmed = picture * (0.8 * self._each("sky", s.sample).mean(1, keepdim=True))
        shown = torch.lerp(dimmed, self._horizon(s.sample).expand_as(dimmed), up)
        return torch.lerp(light, shown, _fresnel(s, gloss).unsqueeze(1))

    def _sky(self, pixel: torch.Tensor) -> torch.Tensor:
        """P x 3: the sky in the directions of these pixels."""
        area, width = self.shot.width * self.shot.height, self.shot.width
        sample, x, y = pixel // area, (pixel % width).float(), (pixel % area // width).float()
        rays = self._on_device(np.stack([view.rays() for view in self.shot.views]))[sample]
        ray = rays[:, :, 0] * x.unsqueeze(1) + rays[:, :, 1] * y.unsqueeze(1) + rays[:, :, 2]
        up = (-ray[:, 1] / ray.norm(dim=1)).clamp(min=0)
        part = up.sqrt().unsqueeze(1)
        zenith = self._on_device(np.array([scene.sky.zenith for scene in self.scenes]))[sample]
        horizon = self._horizon(sample)
        colour = horizon + (zenith - horizon) * part
        clouds = np.array([scene.sky.clouds for scene in self.scenes])
        if (clouds > 0).any():
            far = 60 / (up + 0.12)
            image = self._on_device(np.array([scene.sky.image for scene in self.scenes])).long()[sample]
            tone = self.assets.textures.sample(image, ray[:, 0] * far + 200, ray[:, 2] * far * 0.3, far * 0 + 2)
            tone = (tone.mean(1, keepdim=True) - 128) / 64 * self._on_device(clouds)[sample].unsqueeze(1)
            colour = colour + (245 - colour) * (tone * part).clamp(0, 1) - 30 * (-tone * part).clamp(0, 1)
        return colour

    # ---- helpers -----------------------------------------------------------------------------------------------

    def _of(self, name: str, s: Surface) -> torch.Tensor:
        """P: a field of what the pixels show."""
        return self._table[COLUMN[name]][s.item]

    def _each(self, name: str, sample: torch.Tensor) -> torch.Tensor:
        """Look up a field of the lights for every pixel: P (x 3), or 1 (x 3) if there is one scene only."""
        return self._spread(np.array([getattr(scene.light, name) for scene in self.scenes]), sample)

    def _horizon(self, sample: torch.Tensor) -> torch.Tensor:
        return self._spread(np.array([scene.sky.horizon for scene in self.scenes]), sample)

    def _spread(self, values: np.ndarray, sample: torch.Tensor) -> torch.Tensor:
        there = self._on_device(values)
        return there[sample] if len(values) > 1 else there


def covered(at: torch.Tensor, blur: torch.Tensor, duty: torch.Tensor) -> torch.Tensor:
    """Part of ``at - blur/2 .. at + blur/2`` that lies in the first ``duty`` of some period of length 1."""
    blur = blur.clamp(min=1e-3)
    low, high = at - blur / 2, at + blur / 2

    def until(x: torch.Tensor) -> torch.Tensor:
        whole = x.floor()
        return whole * duty + torch.minimum(x - whole, duty)

    return ((until(high) - until(low)) / blur).clamp(0, 1)


def _fresnel(s: Surface, gloss: torch.Tensor) -> torch.Tensor:
    """Compute the part of the light that is reflected: ``gloss`` from straight ahead, more from the side.

    After Schlick, Computer Graphics Forum 1994, eq. 15.
    """
    facing = ((s.ray * s.normal).sum(1).abs() / s.ray.norm(dim=1)).clamp(0, 1)
    return gloss + (1 - gloss) * 0.8 * (1 - facing) ** 5
