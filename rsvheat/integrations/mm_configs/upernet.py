# SPDX-License-Identifier: Apache-2.0
"""UPerNet on RS-vHeat base, for mmsegmentation: add a dataset, num_classes and init_cfg."""

default_scope = "mmseg"

crop_size = (512, 512)
norm_cfg = dict(type="SyncBN", requires_grad=True)
model = dict(
    type="EncoderDecoder",
    # For other than three bands: in_chans below; here mean=None, std=None, bgr_to_rgb=False (newer
    # versions take one or three values only) and a dataset that normalizes.
    data_preprocessor=dict(
        type="SegDataPreProcessor",
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        bgr_to_rgb=True,
        pad_val=0,
        seg_pad_val=255,
        size=crop_size,
        test_cfg=dict(size_divisor=1),  # images of any size are not padded
    ),
    backbone=dict(
        type="rsvheat.integrations.mm.RSVHeat",
        arch="rsvheat_base",
        img_size=crop_size,
        in_chans=3,
        drop_path_rate=0.3,
        # init_cfg=dict(type="Pretrained", checkpoint="weights.pth"),
    ),
    decode_head=dict(
        type="UPerHead",
        in_channels=[128, 256, 512, 1024],
        in_index=[0, 1, 2, 3],
        pool_scales=(1, 2, 3, 6),
        channels=512,
        dropout_ratio=0.1,
        num_classes=2,
        norm_cfg=norm_cfg,
        align_corners=False,
        loss_decode=dict(type="CrossEntropyLoss", use_sigmoid=False, loss_weight=1.0),
    ),
    auxiliary_head=dict(
        type="FCNHead",
        in_channels=512,
        in_index=2,
        channels=256,
        num_convs=1,
        concat_input=False,
        dropout_ratio=0.1,
        num_classes=2,
        norm_cfg=norm_cfg,
        align_corners=False,
        loss_decode=dict(type="CrossEntropyLoss", use_sigmoid=False, loss_weight=0.4),
    ),
    train_cfg=dict(),
    test_cfg=dict(mode="whole"),
)

optim_wrapper = dict(
    type="OptimWrapper",
    optimizer=dict(type="AdamW", lr=1e-4, weight_decay=0.05),
    constructor="rsvheat.integrations.mm.RSVHeatOptimWrapperConstructor",
    paramwise_cfg=dict(layer_decay=0.9, norm_decay_mult=0.0),
)
param_scheduler = [
    dict(type="LinearLR", start_factor=1e-3, by_epoch=False, begin=0, end=1000),
    dict(type="PolyLR", power=1.0, eta_min=0.0, by_epoch=False, begin=1000, end=80000),
]
train_cfg = dict(type="IterBasedTrainLoop", max_iters=80000, val_interval=8000)
val_cfg = dict(type="ValLoop")
test_cfg = dict(type="TestLoop")
default_hooks = dict(
    logger=dict(type="LoggerHook", interval=50, log_metric_by_epoch=False),
    checkpoint=dict(type="CheckpointHook", by_epoch=False, interval=8000),
)
log_processor = dict(by_epoch=False)
