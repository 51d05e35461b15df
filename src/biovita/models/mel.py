"""The log-mel spectrogram of CLAP as a torch module: batched, on any device."""

import torch
from torch import nn
from transformers import ClapFeatureExtractor

POWER_FLOOR = 1e-10


class LogMel(nn.Module):
    """Turn 48 kHz waves into CLAP's log-mel spectrogram.

    Settings come from a `ClapFeatureExtractor`, so a model folder decides them: 1,024-point periodic Hann window,
    hop 480, 64 slaney bands from 50 to 14,000 Hz, power in dB with a floor of 1e-10, centred frames with reflection.

    Source:
        LAION-CLAP's released checkpoint; BioVITA (arXiv 2603.23883) uses it unchanged.
    """

    window: torch.Tensor
    filters: torch.Tensor

    def __init__(self, settings: ClapFeatureExtractor) -> None:
        super().__init__()
        self.n_fft: int = settings.fft_window_size
        self.hop: int = settings.hop_length
        window = torch.hann_window(self.n_fft, periodic=True)
        filters = torch.as_tensor(settings.mel_filters_slaney, dtype=torch.float32)
        self.register_buffer("window", window, persistent=False)
        self.register_buffer("filters", filters, persistent=False)

    @torch.no_grad()
    def forward(self, wave: torch.Tensor) -> torch.Tensor:
        """Compute dB per frame and band.

        Args:
            wave: float32, shape (batch, n_samples), at the settings' sample rate.

        Returns:
            float32, shape (batch, 1 + n_samples // hop, n_bands); 10 s give 1,001 frames.
        """
        spectrum = torch.stft(
            wave, self.n_fft, self.hop, window=self.window, center=True, pad_mode="reflect", return_complex=True
        )
        power = spectrum.real.square() + spectrum.imag.square()
        return 10.0 * torch.log10((power.transpose(1, 2) @ self.filters).clamp_min(POWER_FLOOR))
