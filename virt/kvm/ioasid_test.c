// SPDX-License-Identifier: GPL-2.0-only
/*
 * KUnit tests for what architecture code sees of the KVM-IOASID device
 *
 * The IOASIDs are real ones. The struct kvm is a mock: no more than the lock
 * and the pointer that the device uses. User space has tests of its own, with
 * real virtual machines, in tools/testing/selftests/ioasid/ioasid_kvm.c.
 */
#include <kunit/test.h>
#include <linux/completion.h>
#include <linux/delay.h>
#include <linux/kthread.h>
#include <linux/sched/mm.h>

struct kvm_ioasid_fixture {
	struct kvm *kvm;
	struct kvm_device *dev;
	struct mm_struct *mm;
	struct ioasid_set *set;
	struct ioasid *ioasid;
};

static int kvm_ioasid_test_init(struct kunit *test)
{
	struct kvm_ioasid_fixture *fix;

	fix = kunit_kzalloc(test, sizeof(*fix), GFP_KERNEL);
	KUNIT_ASSERT_NOT_NULL(test, fix);
	test->priv = fix;

	fix->kvm = kvzalloc(sizeof(*fix->kvm), GFP_KERNEL);
	KUNIT_ASSERT_NOT_NULL(test, fix->kvm);
	mutex_init(&fix->kvm->lock);
	/* Freed by the device */
	fix->dev = kzalloc(sizeof(*fix->dev), GFP_KERNEL);
	KUNIT_ASSERT_NOT_NULL(test, fix->dev);
	fix->dev->kvm = fix->kvm;
	fix->mm = mm_alloc();
	KUNIT_ASSERT_NOT_NULL(test, fix->mm);
	fix->set = ioasid_set_get_mm(fix->mm);
	KUNIT_ASSERT_NOT_ERR_OR_NULL(test, fix->set);
	fix->ioasid = ioasid_alloc(fix->set, 1, 0xfffff);
	KUNIT_ASSERT_NOT_ERR_OR_NULL(test, fix->ioasid);
	return 0;
}

static void kvm_ioasid_test_exit(struct kunit *test)
{
	struct kvm_ioasid_fixture *fix = test->priv;

	if (fix->ioasid)
		ioasid_free(fix->ioasid);
	ioasid_set_put(fix->set);
	mmput(fix->mm);
	mutex_destroy(&fix->kvm->lock);
	kvfree(fix->kvm);
}

static void kvm_ioasid_test_create(struct kunit *test)
{
	struct kvm_ioasid_fixture *fix = test->priv;

	mutex_lock(&fix->kvm->lock);
	KUNIT_ASSERT_EQ(test, kvm_ioasid_create(fix->dev, KVM_DEV_TYPE_IOASID),
			0);
	mutex_unlock(&fix->kvm->lock);
}

/* The VM takes a reference for @guest_pasid */
static int kvm_ioasid_test_map(struct kunit *test, u32 guest_pasid)
{
	struct kvm_ioasid_fixture *fix = test->priv;
	struct kvm_ioasid_mapping *mapping;

	mapping = kzalloc(sizeof(*mapping), GFP_KERNEL);
	if (!mapping)
		return -ENOMEM;
	mapping->ioasid = ioasid_user_get(fix->ioasid, IOASID_USER_KVM,
					  &mapping->tracker);
	return kvm_ioasid_insert(fix->dev->private, guest_pasid, mapping);
}

/* The host's number of @guest_pasid, 0 if there is none */
static u32 kvm_ioasid_test_id(struct kvm *kvm, u32 guest_pasid)
{
	struct ioasid *ioasid;

	guard(rcu)();
	ioasid = kvm_ioasid_lookup(kvm, guest_pasid);
	return ioasid ? ioasid_id(ioasid) : 0;
}

static void lookup_without_device_finds_nothing(struct kunit *test)
{
	struct kvm_ioasid_fixture *fix = test->priv;

	KUNIT_EXPECT_EQ(test, kvm_ioasid_test_id(fix->kvm, 0), 0);
	kvm_ioasid_test_create(test);
	KUNIT_EXPECT_EQ(test, kvm_ioasid_test_id(fix->kvm, 0), 0);
	kvm_ioasid_destroy(fix->dev);
	KUNIT_EXPECT_EQ(test, kvm_ioasid_test_id(fix->kvm, 0), 0);
}

static void lookup_finds_what_is_mapped(struct kunit *test)
{
	struct kvm_ioasid_fixture *fix = test->priv;
	u32 id = ioasid_id(fix->ioasid);

	kvm_ioasid_test_create(test);
	KUNIT_EXPECT_EQ(test, kvm_ioasid_test_map(test, 0), 0);
	KUNIT_EXPECT_EQ(test, kvm_ioasid_test_map(test, 0xfffff), 0);
	KUNIT_EXPECT_EQ(test, kvm_ioasid_test_map(test, 0), -EEXIST);

	KUNIT_EXPECT_EQ(test, kvm_ioasid_test_id(fix->kvm, 0), id);
	KUNIT_EXPECT_EQ(test, kvm_ioasid_test_id(fix->kvm, 0xfffff), id);
	KUNIT_EXPECT_EQ(test, kvm_ioasid_test_id(fix->kvm, 1), 0);
	KUNIT_EXPECT_EQ(test, kvm_ioasid_test_id(fix->kvm, U32_MAX), 0);

	KUNIT_EXPECT_EQ(test, kvm_ioasid_erase(fix->dev->private, 0), 0);
	KUNIT_EXPECT_EQ(test, kvm_ioasid_erase(fix->dev->private, 0), -ENOENT);
	KUNIT_EXPECT_EQ(test, kvm_ioasid_test_id(fix->kvm, 0), 0);
	KUNIT_EXPECT_EQ(test, kvm_ioasid_test_id(fix->kvm, 0xfffff), id);
	kvm_ioasid_destroy(fix->dev);
}

static void vm_has_one_device(struct kunit *test)
{
	struct kvm_ioasid_fixture *fix = test->priv;
	struct kvm_device second = { .kvm = fix->kvm };

	kvm_ioasid_test_create(test);
	mutex_lock(&fix->kvm->lock);
	KUNIT_EXPECT_EQ(test, kvm_ioasid_create(&second, KVM_DEV_TYPE_IOASID),
			-EBUSY);
	mutex_unlock(&fix->kvm->lock);
	kvm_ioasid_destroy(fix->dev);
}

/* A VM that still has the number must find it, or its guest would fault */
static void lookup_finds_what_is_parked(struct kunit *test)
{
	struct kvm_ioasid_fixture *fix = test->priv;
	struct ioasid *ioasid = fix->ioasid;
	u32 id = ioasid_id(ioasid);

	kvm_ioasid_test_create(test);
	KUNIT_ASSERT_EQ(test, kvm_ioasid_test_map(test, 7), 0);
	fix->ioasid = NULL;
	ioasid_free(ioasid);
	KUNIT_EXPECT_EQ(test, kvm_ioasid_test_id(fix->kvm, 7), id);

	/* And nobody else gets it */
	ioasid = ioasid_alloc(fix->set, id, id);
	KUNIT_EXPECT_TRUE(test, IS_ERR(ioasid));
	kvm_ioasid_destroy(fix->dev);
	ioasid = ioasid_alloc(fix->set, id, id);
	KUNIT_EXPECT_FALSE(test, IS_ERR(ioasid));
	if (!IS_ERR(ioasid))
		fix->ioasid = ioasid;
}

struct kvm_ioasid_reader {
	struct kvm *kvm;
	u32 id;
	unsigned long found;
	unsigned long missed;
	unsigned long wrong;
	struct completion started;
};

static int kvm_ioasid_reader_fn(void *arg)
{
	struct kvm_ioasid_reader *reader = arg;
	u32 id;

	while (!kthread_should_stop()) {
		id = kvm_ioasid_test_id(reader->kvm, 5);
		if (!id)
			reader->missed++;
		else if (id == reader->id)
			reader->found++;
		else
			reader->wrong++;
		if (reader->found && reader->missed)
			complete_all(&reader->started);
		cond_resched();
	}
	return 0;
}

/* Mapping and object go away under the reader: KASAN would see it look */
static void lookup_races_with_unmap_and_recycle(struct kunit *test)
{
	struct kvm_ioasid_fixture *fix = test->priv;
	struct kvm_ioasid_reader reader = {
		.kvm = fix->kvm,
		.id = ioasid_id(fix->ioasid),
	};
	struct task_struct *task;
	int round;

	init_completion(&reader.started);
	kvm_ioasid_test_create(test);
	task = kthread_run(kvm_ioasid_reader_fn, &reader, "kvm-ioasid-test");
	KUNIT_ASSERT_FALSE(test, IS_ERR(task));

	for (round = 0; round < 10000; round++) {
		KUNIT_EXPECT_EQ(test, kvm_ioasid_test_map(test, 5), 0);
		if (!(round % 16)) {
			ioasid_free(fix->ioasid);
			fix->ioasid = NULL;
		}
		KUNIT_EXPECT_EQ(test, kvm_ioasid_erase(fix->dev->private, 5),
				0);
		if (!fix->ioasid)
			fix->ioasid = ioasid_alloc(fix->set, reader.id,
						   reader.id);
		if (IS_ERR(fix->ioasid)) {
			KUNIT_FAIL(test, "the number was not recycled");
			fix->ioasid = NULL;
			break;
		}
		if (round > 100 && try_wait_for_completion(&reader.started))
			break;
		cond_resched();
	}
	kthread_stop(task);
	KUNIT_EXPECT_GT(test, reader.found, 0);
	KUNIT_EXPECT_GT(test, reader.missed, 0);
	KUNIT_EXPECT_EQ(test, reader.wrong, 0);
	kvm_ioasid_destroy(fix->dev);
}

struct kvm_ioasid_holder {
	struct kvm *kvm;
	struct completion found;
	bool done;
};

/* A vCPU that takes its time between the lookup and the use of the number */
static int kvm_ioasid_holder_fn(void *arg)
{
	struct kvm_ioasid_holder *holder = arg;

	scoped_guard(rcu) {
		if (kvm_ioasid_lookup(holder->kvm, 5))
			complete(&holder->found);
		mdelay(50);
		WRITE_ONCE(holder->done, true);
	}
	while (!kthread_should_stop())
		msleep(20);
	return 0;
}

static void unmap_waits_for_lookups(struct kunit *test)
{
	struct kvm_ioasid_fixture *fix = test->priv;
	struct kvm_ioasid_holder holder = { .kvm = fix->kvm };
	struct task_struct *task;

	init_completion(&holder.found);
	kvm_ioasid_test_create(test);
	KUNIT_ASSERT_EQ(test, kvm_ioasid_test_map(test, 5), 0);
	task = kthread_run(kvm_ioasid_holder_fn, &holder, "kvm-ioasid-test");
	KUNIT_ASSERT_FALSE(test, IS_ERR(task));
	KUNIT_EXPECT_NE(test, wait_for_completion_timeout(&holder.found, 10 * HZ),
			0);

	KUNIT_EXPECT_EQ(test, kvm_ioasid_erase(fix->dev->private, 5), 0);
	KUNIT_EXPECT_TRUE(test, READ_ONCE(holder.done));
	kthread_stop(task);
	kvm_ioasid_destroy(fix->dev);
}

static struct kunit_case kvm_ioasid_cases[] = {
	KUNIT_CASE(lookup_without_device_finds_nothing),
	KUNIT_CASE(lookup_finds_what_is_mapped),
	KUNIT_CASE(vm_has_one_device),
	KUNIT_CASE(lookup_finds_what_is_parked),
	KUNIT_CASE(unmap_waits_for_lookups),
	KUNIT_CASE_SLOW(lookup_races_with_unmap_and_recycle),
	{}
};

static struct kunit_suite kvm_ioasid_suite = {
	.name = "kvm-ioasid",
	.init = kvm_ioasid_test_init,
	.exit = kvm_ioasid_test_exit,
	.test_cases = kvm_ioasid_cases,
};

kunit_test_suite(kvm_ioasid_suite);
