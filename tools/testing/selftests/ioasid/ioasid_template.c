// SPDX-License-Identifier: GPL-2.0-only
/* A minimal DMA test to copy from, see Documentation/driver-api/ioasid.rst */
#include "ioasid_fixture.h"

DMA_TEST_SUITE(template)

TEST_F(template, dma_ends_with_free)
{
	__u32 id = give_ioasid(_metadata, &self->ch[0], self->fd);

	start_stream(_metadata, &self->ch[0], BUF_LEN, 100, 1);
	test_cmd_free(self->fd, 1, &id);
	expect_blocked(&self->ch[0]);
}

TEST_HARNESS_MAIN
