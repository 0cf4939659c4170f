// SPDX-License-Identifier: Apache-2.0
/* sanitizer.h - WITH_ASAN and WITH_TSAN: 1 in a build for that sanitizer, by gcc or clang, else 0. */
#pragma once

#ifndef __has_feature
#define __has_feature(x) 0
#endif
#if defined(__SANITIZE_ADDRESS__) || __has_feature(address_sanitizer)
#define WITH_ASAN 1
#else
#define WITH_ASAN 0
#endif
#if defined(__SANITIZE_THREAD__) || __has_feature(thread_sanitizer)
#define WITH_TSAN 1
#else
#define WITH_TSAN 0
#endif
