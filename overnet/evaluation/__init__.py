"""PSNR and SSIM over test sets. Needs no torch."""
