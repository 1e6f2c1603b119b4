// SPDX-License-Identifier: GPL-2.0-only
/*
 * Benchmarks from user space. Not a test: nothing is checked. "make bench" runs
 * it and evaluates the output.
 *
 *   ioasid_bench ioctl     IOASID_ALLOC and IOASID_FREE of one and of many
 *			 IOASIDs, compared with iommufd
 *   ioasid_bench memory    memory for as many IOASIDs as a user may have
 *   ioasid_bench close N PER_DOMAIN DEVICES [plain]
 *			 allocate N IOASIDs, attach them to up to this many
 *			 devices with ATS ("plain": without ATS), close their
 *			 file, detach and recycle them, compared with teardown
 *			 one by one; PER_DOMAIN of them share a domain, 0: all
 *   ioasid_bench bystander N
 *			 one close of N IOASIDs, each in its own domain,
 *			 during an unrelated stream; the trace of the emulator
 *			 shows what that costs the stream
 *   ioasid_bench neighbour N CLOSERS [PER_WAIT]
 *			 free IOASIDs of one file and device one at a time,
 *			 while CLOSERS processes each close a file of N IOASIDs,
 *			 attached to a device of its own behind the same IOMMU.
 *			 Count what is in the invalidation queue ahead of each
 *			 step of a free. With PER_WAIT, they only invalidate the
 *			 PASID cache N times, with this many descriptors per wait
 *   ioasid_bench contention OWNERS [global]
 *			 OWNERS processes, each with a file and a device of its
 *			 own, allocate, attach, free and detach IOASIDs. Count
 *			 contended acquisitions of locks by caller. With
 *			 "global", all of them also take one mutex and one
 *			 spinlock each time
 *
 * Times are taken from ioasid_bench/ in debugfs. "One by one" calls
 * intel_pasid_tear_down_entry() of the driver for each PASID and nothing else.
 * "No teardown" and "empty close" are the same calls without any PASID.
 * Needs CONFIG_IOASID_BENCH.
 */
#include <errno.h>
#include <dirent.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <linux/ioasid.h>
#include <linux/iommufd.h>

#include "../../../../drivers/iommu/ioasid_bench.h"
#include "ioasid_attach.h"
#include "ioasid_watch.h"
#include "pdma_utils.h"

#define BENCH "/sys/kernel/debug/ioasid_bench/"
#define QUEUES "/sys/kernel/debug/iommu/intel/invalidation_queue"

/* As many as a user may have by default, a quarter of the PASID space */
#define NR_IDS 262143u
#define MAX_DEVICES 8

static __u32 ids[NR_IDS];

static void die(const char *what)
{
	fprintf(stderr, "ioasid_bench: %s: %s\n", what, strerror(errno));
	exit(1);
}

/* Sum of the numbers that follow @after in a debugfs file */
static __u64 read_number(const char *path, const char *after)
{
	__u64 total = 0, value;
	char line[256];
	FILE *file = fopen(path, "r");

	if (!file)
		die(path);
	while (fgets(line, sizeof(line), file)) {
		char *at = strstr(line, after);

		if (at && sscanf(at + strlen(after), "%llu", &value) == 1)
			total += value;
	}
	fclose(file);
	return total;
}

/* @file: now, recycled or settled */
static __u64 time_of(const char *file)
{
	char path[64];

	snprintf(path, sizeof(path), BENCH "%s", file);
	return read_number(path, "");
}

struct queue {
	__u64 descs, waits;
};

/* Totals of all IOMMUs since boot */
static struct queue queue_now(void)
{
	return (struct queue) {
		.descs = read_number(QUEUES, "Submitted: "),
		.waits = read_number(QUEUES, "descriptors, "),
	};
}

static int open_ioasid(void)
{
	int fd = ioasid_open();

	if (fd < 0 || ioasid_set_quota(fd, NR_IDS))
		die(IOASID_DEV);
	return fd;
}

static void alloc_ids(int fd, __u32 count)
{
	if (ioasid_alloc(fd, 0, 0, count, ids))
		die("IOASID_ALLOC");
}

static void free_ids(int fd, __u32 count)
{
	if (ioasid_free(fd, count, ids))
		die("IOASID_FREE");
}

static void write_file(const char *path, const char *text)
{
	if (pdma_write_file(path, text))
		die(path);
}

/* Benchmark "ioctl" */

#define PAIRS 2000
#define BULK 4096

static __u32 alloc_ioas(int fd)
{
	struct iommu_ioas_alloc alloc = { .size = sizeof(alloc) };

	if (ioctl(fd, IOMMU_IOAS_ALLOC, &alloc))
		die("IOMMU_IOAS_ALLOC");
	return alloc.out_ioas_id;
}

static void ioasid_pairs(int fd)
{
	int i;

	for (i = 0; i < PAIRS; i++) {
		alloc_ids(fd, 1);
		free_ids(fd, 1);
	}
}

static void ioas_pairs(int fd)
{
	int i;

	for (i = 0; i < PAIRS; i++) {
		struct iommu_destroy destroy = {
			.size = sizeof(destroy), .id = alloc_ioas(fd),
		};

		if (ioctl(fd, IOMMU_DESTROY, &destroy))
			die("IOMMU_DESTROY");
	}
}

static void ioasid_bulk(int fd)
{
	alloc_ids(fd, BULK);
	free_ids(fd, BULK);
}

static void no_call(int fd)
{
	int i;

	/* Two nonexistent ioctls per pair */
	for (i = 0; i < 2 * PAIRS; i++)
		ioctl(fd, _IO(0xbd, 0xff));
}

/* Minimum of several rounds, including deferred work */
static __u64 measure(void (*fn)(int fd), int fd)
{
	__u64 best = ~0ULL, start, empty, took;
	int i;

	for (i = 0; i < 5; i++) {
		time_of("settled");
		start = time_of("now");
		empty = time_of("settled") - start;
		start = time_of("now");
		fn(fd);
		took = time_of("settled") - start - empty;
		if (took < best)
			best = took;
	}
	return best;
}

static void print_pairs(const char *which, int fd, int iommufd)
{
	printf("IOASID_ALLOC + IOASID_FREE: %s,%llu\n", which,
	       measure(ioasid_pairs, fd) / PAIRS);
	printf("IOMMU_IOAS_ALLOC + IOMMU_DESTROY: %s,%llu\n", which,
	       measure(ioas_pairs, iommufd) / PAIRS);
}

static void bench_ioctl(void)
{
	int iommufd = open("/dev/iommu", O_RDWR | O_CLOEXEC);
	int fd = open_ioasid();

	if (iommufd < 0)
		die("/dev/iommu");
	printf("what,per call pair or number\n");
	printf("two empty ioctls,%llu\n", measure(no_call, fd) / PAIRS);
	/*
	 * Without any object, each allocation also builds the tree of IDs, and
	 * each free tears it down
	 */
	print_pairs("the only one", fd, iommufd);
	alloc_ids(fd, 1);
	alloc_ioas(iommufd);
	print_pairs("beside another one", fd, iommufd);
	printf("IOASID_ALLOC + IOASID_FREE of %d,%llu\n", BULK,
	       measure(ioasid_bulk, fd) / BULK);
}

/* Benchmark "memory" */

static __u64 mem_free_kib(void)
{
	return read_number("/proc/meminfo", "MemFree:");
}

static void bench_memory(void)
{
	int fd = open_ioasid();
	__u64 before, after;

	memset(ids, 0, sizeof(ids));
	before = mem_free_kib();
	alloc_ids(fd, NR_IDS);
	after = mem_free_kib();
	printf("what,bytes\n");
	printf("%u IOASIDs,%llu\n", NR_IDS, (before - after) * 1024);
	printf("each of them,%llu\n", (before - after) * 1024 / NR_IDS);
	close(fd);
}

/* Benchmark "close" */

static char devices[MAX_DEVICES][32];

static int find_devices(int max, bool ats)
{
	char vendor[16], device[16], path[PDMA_PATH_LEN + NAME_MAX];
	struct dirent *entry;
	int found = 0;
	DIR *dir;

	dir = opendir("/sys/bus/pci/devices");
	if (!dir)
		die("/sys/bus/pci/devices");
	while (found < max && (entry = readdir(dir))) {
		if (strlen(entry->d_name) >= sizeof(devices[0]))
			continue;
		snprintf(path, sizeof(path), "/sys/bus/pci/devices/%s/vendor",
			 entry->d_name);
		if (pdma_read_file(path, vendor, sizeof(vendor)) ||
		    strtoul(vendor, NULL, 16) != PDMA_VENDOR_ID)
			continue;
		snprintf(path, sizeof(path), "/sys/bus/pci/devices/%s/device",
			 entry->d_name);
		if (pdma_read_file(path, device, sizeof(device)) ||
		    strtoul(device, NULL, 16) != PDMA_DEVICE_ID ||
		    pci_ats_enabled(entry->d_name) != ats)
			continue;
		strcpy(devices[found++], entry->d_name);
	}
	closedir(dir);
	return found;
}

static void need_devices(int count)
{
	if (find_devices(count, true) < count) {
		errno = ENODEV;
		die("devices with ATS");
	}
}

static int open_attach(void)
{
	int fd = attach_open();

	if (fd < 0)
		die(ATTACH_FILE);
	return fd;
}

struct cost {
	__u64 ns;
	struct queue queue;
};

static __u64 cost_start, cost_empty;
static struct queue cost_queue;
static const char *cost_until;

/* @until: debugfs file that returns the end time */
static void cost_begin(const char *until)
{
	time_of("settled");
	time_of(until);
	cost_until = until;
	cost_start = time_of("now");
	cost_empty = time_of(until) - cost_start;
	cost_queue = queue_now();
	cost_start = time_of("now");
}

static struct cost cost_end(void)
{
	struct cost cost = {
		.ns = time_of(cost_until) - cost_start - cost_empty,
	};
	struct queue queue = queue_now();

	cost.queue.descs = queue.descs - cost_queue.descs;
	cost.queue.waits = queue.waits - cost_queue.waits;
	return cost;
}

static bool ats = true;

static void print_cost(const char *what, __u32 count, int nr_devices,
		       __u32 per_domain, struct cost cost)
{
	printf("%s,%u,%d,%d,%u,%llu,%llu,%llu\n", what, count, nr_devices, ats,
	       per_domain, cost.queue.waits, cost.queue.descs, cost.ns);
	fflush(stdout);
}

static void attach_all(int attach_fd, int fd, __u32 count, __u32 per_domain,
		       int nr_devices)
{
	int i;

	for (i = 0; i < nr_devices; i++)
		if (attach_ids(attach_fd, devices[i], fd, count, ids,
			       per_domain))
			die(devices[i]);
}

/* Tear down one entry at a time, as without park. @count 0 finds the devices */
static void teardown_all(int teardown_fd, __u32 count, int nr_devices)
{
	struct ioasid_bench_teardown cmd = {
		.count = count, .ids = (uintptr_t)ids,
	};
	int i;

	for (i = 0; i < nr_devices; i++) {
		strcpy(cmd.device, devices[i]);
		if (ioctl(teardown_fd, IOASID_BENCH_TEARDOWN, &cmd))
			die("IOASID_BENCH_TEARDOWN");
	}
}

/* One call for all, compared with a call that is refused */
static void bench_free(__u32 count, __u32 per_domain, int nr_devices)
{
	int fd = open_ioasid(), attach_fd = open_attach();
	__u32 none = 0;

	alloc_ids(fd, count);
	attach_all(attach_fd, fd, count, per_domain, nr_devices);
	cost_begin("now");
	if (ioasid_free(fd, 1, &none) != -ENOENT)
		die("IOASID_FREE of nothing");
	print_cost("empty free", count, nr_devices, per_domain, cost_end());
	cost_begin("now");
	free_ids(fd, count);
	print_cost("free", count, nr_devices, per_domain, cost_end());
	close(attach_fd);
	close(fd);
}

static void bench_close(__u32 count, __u32 per_domain, int nr_devices)
{
	int teardown_fd = open(BENCH "teardown", O_RDWR | O_CLOEXEC);
	int fd = open_ioasid(), attach_fd = open_attach();

	if (teardown_fd < 0)
		die(BENCH "teardown");
	alloc_ids(fd, count);
	attach_all(attach_fd, fd, count, per_domain, nr_devices);
	cost_begin("now");
	teardown_all(teardown_fd, 0, nr_devices);
	print_cost("no teardown", count, nr_devices, per_domain, cost_end());
	cost_begin("now");
	teardown_all(teardown_fd, count, nr_devices);
	print_cost("one by one", count, nr_devices, per_domain, cost_end());
	close(teardown_fd);
	close(attach_fd);
	close(fd);

	fd = open_ioasid();
	cost_begin("now");
	close(fd);
	print_cost("empty close", count, nr_devices, per_domain, cost_end());

	fd = open_ioasid();
	attach_fd = open_attach();
	cost_begin("now");
	alloc_ids(fd, count);
	print_cost("alloc", count, nr_devices, per_domain, cost_end());

	cost_begin("now");
	attach_all(attach_fd, fd, count, per_domain, nr_devices);
	print_cost("attach", count, nr_devices, per_domain, cost_end());

	cost_begin("now");
	close(fd);
	print_cost("close", count, nr_devices, per_domain, cost_end());

	cost_begin("now");
	if (ioctl(attach_fd, IOASID_TEST_DETACH))
		die("IOASID_TEST_DETACH");
	print_cost("detach", count, nr_devices, per_domain, cost_end());

	cost_begin("recycled");
	if (ioctl(attach_fd, IOASID_TEST_PUT))
		die("IOASID_TEST_PUT");
	print_cost("recycle", count, nr_devices, per_domain, cost_end());
	close(attach_fd);
}

static void bench_close_all(__u32 count, __u32 per_domain, int max)
{
	int nr_devices, found = find_devices(max, ats);

	printf("what,PASIDs,devices,ATS,PASIDs per domain,waits,descriptors,time\n");
	for (nr_devices = 1; nr_devices <= found; nr_devices *= 2) {
		bench_close(count, per_domain, nr_devices);
		if (count == 1)
			bench_free(count, per_domain, nr_devices);
	}
}

/* Benchmark "bystander" */

#define STREAM_IOVA 0x100000
#define STREAM_LEN PDMA_MAX_LEN

static void bench_bystander(__u32 count)
{
	char engine[NAME_MAX + 1], uuid[PDMA_UUID_LEN + 1];
	int fd = open_ioasid(), stream_fd = open_ioasid();
	struct pdma_dev dev;
	unsigned int nth;
	int attach_fd;
	__u32 id;
	void *buf;

	/* Without ATS, the IOMMU translates every access of the engine */
	for (nth = 0; ; nth++) {
		if (pdma_find_parent(nth, engine))
			die("no engine without ATS");
		if (!pci_ats_enabled(engine))
			break;
	}
	buf = mmap(NULL, STREAM_LEN, PROT_READ | PROT_WRITE,
		   MAP_SHARED | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
	if (buf == MAP_FAILED || pdma_create(engine, uuid) ||
	    pdma_open_cdev(&dev, uuid, NULL) ||
	    pdma_map(&dev, buf, STREAM_IOVA, STREAM_LEN) ||
	    ioasid_alloc(stream_fd, 0, 0, 1, &id) ||
	    pdma_set_ioasid(&dev, stream_fd, id) ||
	    pdma_stream(&dev, STREAM_IOVA, STREAM_LEN, 100, 512))
		die(engine);
	usleep(500000);

	if (count) {
		attach_fd = open_attach();
		alloc_ids(fd, count);
		if (attach_ids(attach_fd, engine, fd, count, ids, 1))
			die(engine);
		close(fd);
		usleep(500000);
		close(attach_fd);
	}
	pdma_close(&dev);
	if (pdma_remove(uuid))
		die(uuid);
}

/* Processes that wait for each other */

static struct meeting {
	int ready, go, done;
} *meeting;

static void meeting_init(void)
{
	meeting = mmap(NULL, sizeof(*meeting), PROT_READ | PROT_WRITE,
		       MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (meeting == MAP_FAILED)
		die("mmap");
}

static int meeting_read(int *count)
{
	return __atomic_load_n(count, __ATOMIC_SEQ_CST);
}

static void meeting_add(int *count)
{
	__atomic_add_fetch(count, 1, __ATOMIC_SEQ_CST);
}

static void meeting_wait(int *count, int min)
{
	while (meeting_read(count) < min) {
		/* No child exits before all have met, unless it fails */
		if (waitpid(-1, NULL, WNOHANG) > 0)
			exit(1);
		usleep(1000);
	}
}

/* Returns in the children. The parent must call join_children(). */
static int fork_children(int count)
{
	int i;

	fflush(stdout);
	for (i = 0; i < count; i++) {
		switch (fork()) {
		case -1:
			die("fork");
		case 0:
			return i;
		}
	}
	return -1;
}

static void join_children(int count)
{
	int status;

	while (count--) {
		if (wait(&status) < 0 || status) {
			fprintf(stderr, "ioasid_bench: a child failed\n");
			exit(1);
		}
	}
}

/* Benchmark "neighbour" */

#define NEIGHBOURS 2048

static void be_closer(const char *device, __u32 count, __u32 per_wait)
{
	struct ioasid_bench_teardown cmd = {
		.count = count, .per_wait = per_wait, .ids = (uintptr_t)ids,
	};
	int teardown_fd = open(BENCH "teardown", O_RDWR | O_CLOEXEC);
	int fd = open_ioasid(), attach_fd = open_attach();

	if (teardown_fd < 0)
		die(BENCH "teardown");
	strcpy(cmd.device, device);
	alloc_ids(fd, count);
	if (!per_wait && attach_ids(attach_fd, device, fd, count, ids, 64))
		die(device);
	meeting_add(&meeting->ready);
	meeting_wait(&meeting->go, 1);
	if (!per_wait)
		close(fd);
	else if (ioctl(teardown_fd, IOASID_BENCH_TEARDOWN, &cmd))
		die("IOASID_BENCH_TEARDOWN");
	meeting_add(&meeting->done);
	exit(0);
}

static void bench_neighbour(__u32 count, int closers, __u32 per_wait)
{
	int fd, attach_fd, child;
	__u32 i;

	need_devices(closers + 1);
	meeting_init();
	/* Before others run the code that this changes */
	write_file(BENCH "ahead", "1");
	child = fork_children(closers);
	if (child >= 0)
		be_closer(devices[child + 1], count, per_wait);

	fd = open_ioasid();
	attach_fd = open_attach();
	alloc_ids(fd, NEIGHBOURS);
	attach_all(attach_fd, fd, NEIGHBOURS, 0, 1);
	meeting_wait(&meeting->ready, closers);
	meeting_add(&meeting->go);
	for (i = 0; i < NEIGHBOURS && meeting_read(&meeting->done) < closers; i++)
		if (ioasid_free(fd, 1, &ids[i]))
			die("IOASID_FREE");
	join_children(closers);
	write_file(BENCH "ahead", "0");

	printf("closers,PASIDs,per wait,freed,steps,behind others,waits,descriptors\n");
	printf("%d,%u,%u,%u,%llu,%llu,%llu,%llu\n", closers, count, per_wait, i,
	       read_number(BENCH "ahead", "steps "),
	       read_number(BENCH "ahead", "behind "),
	       read_number(BENCH "ahead", "batches "),
	       read_number(BENCH "ahead", "descriptors "));
}

/* Benchmark "contention" */

#define ROUNDS 20
#define OWNED 16

static void be_owner(const char *device, bool global)
{
	int global_fd = open(BENCH "global", O_RDONLY | O_CLOEXEC);
	int fd = open_ioasid(), attach_fd = open_attach(), i;
	char c;

	if (global_fd < 0)
		die(BENCH "global");
	meeting_add(&meeting->ready);
	meeting_wait(&meeting->go, 1);
	for (i = 0; i < ROUNDS; i++) {
		alloc_ids(fd, OWNED);
		if (attach_ids(attach_fd, device, fd, OWNED, ids, 0))
			die(device);
		free_ids(fd, OWNED);
		/* Detaches them, and drops the references */
		if (ioctl(attach_fd, IOASID_TEST_PUT))
			die("IOASID_TEST_PUT");
		if (global && pread(global_fd, &c, 1, 0) < 0)
			die(BENCH "global");
	}
	exit(0);
}

static void bench_contention(int owners, bool global)
{
	unsigned long caller;
	char line[64];
	FILE *file;
	int child, count;

	need_devices(owners);
	meeting_init();
	/* Before others run the code that this changes */
	write_file(BENCH "contention", "1");
	child = fork_children(owners);
	if (child >= 0)
		be_owner(devices[child], global);
	meeting_wait(&meeting->ready, owners);
	meeting_add(&meeting->go);
	join_children(owners);
	time_of("settled");
	write_file(BENCH "contention", "0");

	file = fopen(BENCH "contention", "r");
	if (!file)
		die(BENCH "contention");
	printf("owners,global locks,IOASIDs,caller,waited\n");
	/* So that there is a line if nobody waited */
	printf("%d,%d,%d,1,0\n", owners, global, owners * ROUNDS * OWNED);
	while (fgets(line, sizeof(line), file)) {
		if (sscanf(line, "%lx %d", &caller, &count) != 2)
			die(line);
		printf("%d,%d,%d,%lx,%d\n", owners, global,
		       owners * ROUNDS * OWNED, caller, count);
	}
	fclose(file);
}

static int usage(void)
{
	fprintf(stderr, "usage: ioasid_bench ioctl | memory | bystander N |\n"
		"       ioasid_bench close N PER_DOMAIN DEVICES [plain]\n"
		"       ioasid_bench neighbour N CLOSERS [PER_WAIT]\n"
		"       ioasid_bench contention OWNERS [global]\n");
	return 2;
}

int main(int argc, char **argv)
{
	const char *what = argc > 1 ? argv[1] : "";
	__u32 count = argc > 2 ? atoi(argv[2]) : 0;
	__u32 per_domain = argc > 3 ? atoi(argv[3]) : 64;
	int nr_devices = argc > 4 ? atoi(argv[4]) : 4;

	ats = argc <= 5 || strcmp(argv[5], "plain");
	if (!strcmp(what, "ioctl"))
		bench_ioctl();
	else if (!strcmp(what, "memory"))
		bench_memory();
	else if (!strcmp(what, "close") && count && count <= NR_IDS &&
		 nr_devices > 0 && nr_devices <= MAX_DEVICES)
		bench_close_all(count, per_domain, nr_devices);
	else if (!strcmp(what, "bystander") && count <= NR_IDS)
		bench_bystander(count);
	else if (!strcmp(what, "neighbour") && count && count <= NR_IDS &&
		 argc > 3 && atoi(argv[3]) > 0 && atoi(argv[3]) < MAX_DEVICES)
		bench_neighbour(count, atoi(argv[3]), argc > 4 ? atoi(argv[4]) : 0);
	else if (!strcmp(what, "contention") && count && count <= MAX_DEVICES)
		bench_contention(count, argc > 3 && !strcmp(argv[3], "global"));
	else
		return usage();
	return 0;
}
