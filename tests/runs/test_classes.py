"""Classes: what a network is told of them in training, and what it makes of them when asked."""

import hashlib
import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

import tiny
from ddim.data import Images, SplitImages
from ddim.diffusion.conditioning import LogSNR
from ddim.diffusion.denoiser import Model, Shape
from ddim.diffusion.log_snr import equal_log_snr_times, log_snr_range
from ddim.diffusion.loss import Objective
from ddim.diffusion.parameterisation import PredictsImage
from ddim.diffusion.pixels import Pixels
from ddim.diffusion.samplers import DDIM
from ddim.diffusion.schedules import Cosine
from ddim.errors import UserError
from ddim.evaluation.denoising import measure_errors
from ddim.evaluation.diagnose import measure_run_errors
from ddim.nn.ddpm_unet import DDPMUNetSpec
from ddim.nn.runtime import Runtime
from ddim.nn.unet import UNetSpec
from ddim.runs.classes import NULL, count_classes, drop_labels, find_label, label_by_folder_name, label_images
