// SPDX-License-Identifier: Apache-2.0
// Marks what librsvheat_core exports; everything else is built hidden.
#pragma once

#define RSVHEAT_API __attribute__((visibility("default")))
