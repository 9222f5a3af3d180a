"""Published latencies of reference models on devices that we do not have, and the work in those models. Data only.

Latencies: milliseconds at batch 1, the averages of ncnn's own benchmark (Tencent/ncnn, benchmark/README.md,
BSD-3-Clause), measured by many people over the years: another version of the runtime moves a device by 20 to 90 %. Rows
of five rounded figures are as of commit a4d2ea1; the longer rows are from another copy of the same file whose commit is
not known, and agree with it wherever both give a figure. ncnn fuses layers, picks float16 or float32 by itself and is
quicker than PyTorch on the same board. Left out: a network with wide groups (regnety_400m), and entries that cannot be
right (the GPU of ROC-RK3588S, under 1 ms).

Work: counted from our graphs of torchvision's models at 224 pixels, without preprocessing. They are the namesakes of
ncnn's networks, not copies: ncnn's AlexNet and SqueezeNet take 227 pixels, its AlexNet has convolutions in two groups.
"""

from __future__ import annotations

from typing import NamedTuple


class Work(NamedTuple):
    """What one inference of a model asks of a machine."""

    flops: int
    moved_bytes: int  # read and written by the layers that do not multiply
    weight_bytes: int  # all weights, each once


WORK = {
    "squeezenet1_1": Work(698_303_872, 40_461_184, 4_941_984),
    "mobilenet_v2": Work(601_548_544, 105_134_080, 14_155_936),
    "mobilenet_v3_large": Work(433_179_520, 78_317_824, 22_029_728),
    "shufflenet_v2_x1_0": Work(289_815_984, 42_311_872, 9_179_136),
    "mnasnet1_0": Work(628_831_744, 85_793_536, 17_684_928),
    "efficientnet_b0": Work(771_629_504, 133_763_936, 21_322_256),
    "googlenet": Work(2_996_752_384, 78_888_960, 26_557_856),
    "resnet18": Work(3_628_146_688, 51_482_624, 46_796_448),
    "alexnet": Work(1_428_376_960, 5_986_304, 244_403_360),
    "vgg16": Work(30_940_528_640, 139_319_296, 553_430_176),
    "resnet50": Work(8_178_368_512, 236_437_504, 102_440_608),
}


class Row(NamedTuple):
    """One device of the list."""

    preset: str
    device: str
    threads: int
    latencies_ms: tuple[float | None, ...]  # in the order of ``WORK``; None: not published


ROWS = (
    Row("raspberry-pi-zero-2w", "Raspberry Pi Zero 2 W, Cortex-A53 1.0 GHz x 4", 4,
        (119.93, 147.39, 119.04, 64.13, 126.53, 202.14, 324.45, 353.45, 272.18, None, 782.63)),
    Row("raspberry-pi-zero-2w-1-thread", "Raspberry Pi Zero 2 W, Cortex-A53 1.0 GHz x 4", 1,
        (240.77, 274.23, 234.2, 129.18, 265.93, 519, 780.39, 654.69, 689.15, None, 1802.79)),
    Row("raspberry-pi-3b-plus", "Raspberry Pi 3 Model B+, Cortex-A53 1.4 GHz x 4", 4,
        (85.22, 111.68, 86.44, 47.19, 95.78, 135.86, 224.22, 271.93, 159.09, None, 587.42)),
    Row("raspberry-pi-3b-plus-1-thread", "Raspberry Pi 3 Model B+, Cortex-A53 1.4 GHz x 4", 1,
        (125.58, 158.8, 127.23, 74.44, 148.42, 241.27, 450.79, 379.57, 270.55, None, 979.75)),
    Row("raspberry-pi-4", "Raspberry Pi 4 Model B, Cortex-A72 1.8 GHz x 4", 4,
        (46.65, 61.88, 47.53, 24.56, 51.98, 74.19, 114.35, 123.12, 76.4, 547.09, 262.83)),
    Row("raspberry-pi-4-1-thread", "Raspberry Pi 4 Model B, Cortex-A72 1.8 GHz x 4", 1,
        (73.96, 93.48, 72.81, 42.12, 83.98, 129.73, 235.94, 191.1, 139.4, 1071.85, 534.11)),
    Row("raspberry-pi-5", "Raspberry Pi 5, Cortex-A76 2.4 GHz x 4", 4,
        (None, 10.5, None, None, None, None, None, 20, 21, 129, 46)),
    Row("raspberry-pi-5-1-thread", "Raspberry Pi 5, Cortex-A76 2.4 GHz x 4", 1,
        (None, 16, None, None, None, None, None, 30, 36, 190, 89)),
    Row("rk3588", "Rockchip RK3588, Cortex-A76 2.4 GHz x 4 (the big cores)", 4,
        (7.6, 8.76, 7.92, 6.11, 8.33, 17.56, 33.37, 18.86, 29.09, 107.06, 53.83)),
    Row("jetson-nano-cpu", "Jetson Nano, Cortex-A57 x 4", 4,
        (None, 34, None, None, None, None, None, 83, 90, 447, 204)),
    Row("jetson-nano-gpu", "Jetson Nano, Maxwell, Vulkan", 1,
        (None, 13, None, None, None, None, None, 44, 74, 310, 93)),
    Row("jetson-tx2-nx-gpu", "Jetson TX2 NX, Pascal, Vulkan", 1,
        (None, 7, None, None, None, None, None, 13, 20, 63, 30)),
    Row("jetson-agx-xavier-cpu", "Jetson AGX Xavier, Carmel x 4", 4,
        (None, 9.4, None, None, None, None, None, 15, 16, 72, 47)),
    Row("jetson-agx-xavier-gpu", "Jetson AGX Xavier, Volta, Vulkan", 1,
        (None, 6.5, None, None, None, None, None, 9, 19, 20, 12)),
    Row("orin-nano-cpu", "Jetson Orin Nano, Cortex-A78AE x 6", 6,
        (None, 6.5, None, None, None, None, None, 15, 15, 65, 39)),
    Row("orin-nano-gpu", "Jetson Orin Nano, Ampere, Vulkan", 1,
        (None, 3.8, None, None, None, None, None, 4.7, 9, 19, 9.4)),
    Row("snapdragon-410", "Snapdragon 410, Cortex-A53 1.2 GHz x 4", 4,
        (68.1, 82, 63.9, 40.66, 71.73, 130.69, 186.36, 144.99, 109.53, 853.28, 393.71)),
    Row("snapdragon-835", "Snapdragon 835, Kryo 2.45 GHz x 4", 4,
        (29.77, 29.41, 24.79, 14.08, 26.45, 48.85, 77.37, 75.63, 65.49, 394.09, 191.98)),
    Row("snapdragon-855-plus", "Snapdragon 855+, Kryo 485 (the big cores)", 4,
        (None, 4.7, None, None, None, None, None, 10, 12, 60, 26)),
    Row("snapdragon-8-gen-2", "Snapdragon 8 Gen 2 (the big cores)", 4,
        (None, 3.2, None, None, None, None, None, 6.6, 8.2, 38, 19)),
    Row("rtx-3090", "GeForce RTX 3090, Vulkan", 1,
        (1.8, 6.98, 2.77, 5.75, 3.48, 3.91, 6.05, 5.33, 4.5, 5.22, 5.8)),
    Row("tesla-v100", "Tesla V100, Vulkan", 1,
        (None, 1.8, None, None, None, None, None, 2, 1.5, 3.2, 3.7)),
)  # fmt: skip
