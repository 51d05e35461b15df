"""The log-mel spectrogram of CLAP as a torch module: batched, on any device that has float64."""

import torch
from torch import nn
from transformers import ClapFeatureExtractor

POWER_FLOOR = 1e-10
CPU_FRAMES = 128  # transformed at a time: 1 MB of them stays in a core's cache; 256 take twice as long a frame
GPU_FRAMES = 2**16  # half a gigabyte, and few enough kernels


class LogMel(nn.Module):
    """Turn 48 kHz waves into CLAP's log-mel spectrogram.

    Settings come from a `ClapFeatureExtractor`, so a model folder decides them: 1,024-point periodic Hann window,
    hop 480, 64 slaney bands from 50 to 14,000 Hz, power in dB with a floor of 1e-10, centred frames with reflection.

    The Fourier transform is in float64. In float32 the loudest bin of a frame rounds all others: real recordings with
    wind or hum are then up to 0.01 dB off in their quiet bands.

    Source:
        LAION-CLAP's released checkpoint; BioVITA (arXiv 2603.23883) uses it unchanged.
    """

    window: torch.Tensor
    filters: torch.Tensor

    def __init__(self, settings: ClapFeatureExtractor) -> None:
        super().__init__()
        self.n_fft: int = settings.fft_window_size
        self.hop: int = settings.hop_length
        filters = torch.as_tensor(settings.mel_filters_slaney, dtype=torch.float64)
        heard = filters.any(dim=1).nonzero()
        self.bins = slice(int(heard[0]), int(heard[-1]) + 1)  # below and above, no band has any weight
        window = torch.hann_window(self.n_fft, periodic=True, dtype=torch.float64)
        self.register_buffer("window", window, persistent=False)
        self.register_buffer("filters", filters[self.bins].contiguous(), persistent=False)

    @torch.no_grad()
    def forward(self, wave: torch.Tensor) -> torch.Tensor:
        """Compute dB per frame and band.

        Args:
            wave: float32, shape (batch, n_samples), at the settings' sample rate; longer than half a window, 512.

        Returns:
            float32, shape (batch, 1 + n_samples // hop, n_bands); 10 s give 1,001 frames.
        """
        half = self.n_fft // 2
        if wave.shape[1] <= half:
            raise ValueError(f"a wave of {wave.shape[1]} samples: more than {half} are needed to reflect its ends")
        padded = torch.cat([wave[:, 1 : half + 1].flip(1), wave, wave[:, -half - 1 : -1].flip(1)], dim=1)
        frames = padded.unfold(1, self.n_fft, self.hop)
        n_at_once = max(1, (GPU_FRAMES if wave.is_cuda else CPU_FRAMES) // len(wave))
        # Once the transform is done, float32 is good to 1e-5 dB; but a GPU may be told to multiply it in TF32.
        filters = self.filters if wave.is_cuda else self.filters.float()
        with torch.autocast(wave.device.type, enabled=False):
            power = torch.cat([self._power(some, filters) for some in frames.split(n_at_once, dim=1)], dim=1)
        return power.clamp_min_(POWER_FLOOR).log10_().mul_(10.0).float()

    def _power(self, frames: torch.Tensor, filters: torch.Tensor) -> torch.Tensor:
        spectrum = torch.view_as_real(torch.fft.rfft(frames.double().mul_(self.window)))
        squares = spectrum[..., self.bins, :].to(filters.dtype).square_()
        return (squares[..., 0] + squares[..., 1]) @ filters
