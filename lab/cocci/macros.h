/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * For spatch --macro-file: what it cannot parse otherwise, so that it would
 * skip the functions that use it
 */
#define scoped_guard YACFE_ITERATOR
#define scoped_cond_guard YACFE_ITERATOR
