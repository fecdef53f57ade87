# SPDX-License-Identifier: Apache-2.0
"""RetinaNet on RS-vHeat base, for mmdetection: add a dataset, num_classes and init_cfg."""

default_scope = "mmdet"

model = dict(
    type="RetinaNet",
    # For other than three bands: in_chans below; here mean=None, std=None, bgr_to_rgb=False (newer
    # versions take one or three values only) and a dataset that normalizes.
    data_preprocessor=dict(
        type="DetDataPreprocessor",
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        bgr_to_rgb=True,
    ),
    backbone=dict(
        type="rsvheat.integrations.mm.RSVHeat",
        arch="rsvheat_base",
        img_size=800,
        in_chans=3,
        out_indices=(1, 2, 3),
        drop_path_rate=0.3,
        # init_cfg=dict(type="Pretrained", checkpoint="weights.pth"),
    ),
    neck=dict(
        type="FPN",
        in_channels=[256, 512, 1024],
        out_channels=256,
        add_extra_convs="on_input",
        num_outs=5,
    ),
    bbox_head=dict(
        type="RetinaHead",
        num_classes=80,
        in_channels=256,
        stacked_convs=4,
        feat_channels=256,
        loss_cls=dict(type="FocalLoss", use_sigmoid=True, gamma=2.0, alpha=0.25, loss_weight=1.0),
        loss_bbox=dict(type="L1Loss", loss_weight=1.0),
    ),
    train_cfg=dict(
        assigner=dict(
            type="MaxIoUAssigner",
            pos_iou_thr=0.5,
            neg_iou_thr=0.4,
            min_pos_iou=0,
            ignore_iof_thr=-1,
        ),
        sampler=dict(type="PseudoSampler"),  # focal loss takes every anchor
        allowed_border=-1,
        pos_weight=-1,
        debug=False,
    ),
    test_cfg=dict(
        nms_pre=1000,
        min_bbox_size=0,
        score_thr=0.05,
        nms=dict(type="nms", iou_threshold=0.5),
        max_per_img=100,
    ),
)

optim_wrapper = dict(
    type="OptimWrapper",
    optimizer=dict(type="AdamW", lr=1e-4, weight_decay=0.05),
    constructor="rsvheat.integrations.mm.RSVHeatOptimWrapperConstructor",
    paramwise_cfg=dict(layer_decay=0.9, norm_decay_mult=0.0),
)
param_scheduler = [
    dict(type="LinearLR", start_factor=1e-3, by_epoch=False, begin=0, end=500),
    dict(type="MultiStepLR", milestones=[8, 11], gamma=0.1, by_epoch=True, begin=0, end=12),
]
train_cfg = dict(type="EpochBasedTrainLoop", max_epochs=12, val_interval=1)
val_cfg = dict(type="ValLoop")
test_cfg = dict(type="TestLoop")
