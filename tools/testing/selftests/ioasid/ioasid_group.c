// SPDX-License-Identifier: GPL-2.0-only
/*
 * Two devices in one IOMMU group: a PASID attached to one is attached to both,
 * and park must block it on both.
 *
 * Needs two engines that ACS does not isolate from each other but that may use
 * PASIDs. For example, all ports upstream of them have request redirection (RR)
 * and upstream forwarding (UF) enabled, but not source validation (SV).
 */
#include "ioasid_fixture.h"

/* One channel of the first engine; no channel of the second is in use */
FIXTURE(group)
{
	pid_t pid;
	int fd;
	int kmsg;
	struct engine engine[2];
	struct channel ch;
};

static int group_of(const char *name, char group[NAME_MAX])
{
	char path[PDMA_PATH_LEN + NAME_MAX];
	ssize_t len;

	snprintf(path, sizeof(path), PCI_DEVICES "/%s/iommu_group", name);
	len = readlink(path, group, NAME_MAX - 1);
	if (len < 0)
		return -errno;
	group[len] = 0;
	return 0;
}

static const char *setup_group(struct engine engine[2])
{
	char last[NAME_MAX] = "", group[NAME_MAX];
	unsigned int nth;

	for (nth = 0; !pdma_find_parent(nth, engine[1].name); nth++) {
		if (group_of(engine[1].name, group))
			return "no IOMMU groups";
		if (!strcmp(group, last)) {
			if (bar_map(&engine[0].bar, engine[0].name) ||
			    bar_map(&engine[1].bar, engine[1].name))
				return "no access to the engines";
			return NULL;
		}
		strcpy(last, group);
		strcpy(engine[0].name, engine[1].name);
	}
	return "no engines that share a group";
}

FIXTURE_SETUP(group)
{
	self->pid = getpid();
	skip_for(setup_ioasid(_metadata, &self->fd));
	skip_for(setup_group(self->engine));
	setup_kmsg(_metadata, &self->kmsg);
	channel_open(_metadata, &self->ch, self->engine[0].name);
}

FIXTURE_TEARDOWN_PARENT(group)
{
	channel_remove(_metadata, &self->ch, self->pid);
}

TEST_F(group, no_write_of_either_engine_after_free_returns)
{
	struct pdma_bar *bar = &self->engine[1].bar;
	struct channel *ch = &self->ch;
	__u64 arrived, tried;
	int round, late = 0;
	__u32 id;

	for (round = 0; round < 50; round++) {
		id = give_ioasid(_metadata, ch, self->fd);
		start_stream(_metadata, ch, 4096, 20, 1);
		bar_set_pasid(bar, 0, PDMA_PASID_VALID | id);
		arrived = bar_done(bar, 0);
		ASSERT_TRUE(bar_stream(bar, 0, IOVA, 4096, 20));
		ASSERT_TRUE(wait_until(bar_done(bar, 0) >= arrived + 3));

		test_cmd_free(self->fd, 1, &id);
		arrived = bar_done(bar, 0);
		tried = bar_refused(bar, 0);
		late += late_write(_metadata, ch);
		ASSERT_TRUE(wait_until(bar_refused(bar, 0) >= tried + 3));
		late += bar_done(bar, 0) != arrived;
		late += !is_poison(ch);
		bar_stop(bar, 0);
		EXPECT_EQ(0, pdma_drop_all_ioasids(&ch->dev));
	}
	EXPECT_EQ(0, late);
	EXPECT_EQ(0, kmsg_faults(self->kmsg, 0));
}

TEST_HARNESS_MAIN
