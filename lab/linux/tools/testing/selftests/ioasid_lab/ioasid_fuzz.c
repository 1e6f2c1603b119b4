// SPDX-License-Identifier: GPL-2.0-only
/*
 * Random system calls, guided by coverage
 *
 *   ioasid_fuzz [--execs N] [--seconds T] [--seed S]
 *   ioasid_fuzz --replay FILE
 *
 * The defaults come from FUZZ_EXECS, FUZZ_SECONDS, FUZZ_SEED and FUZZ_REPLAY.
 *
 * An input is a sequence of calls on /dev/ioasid, a KVM device and mediated
 * devices. Structs have random words and may be at inaccessible addresses, and
 * descriptors may be of the wrong type. Inputs that reach a new edge in the
 * kernel are kept and mutated (with CONFIG_KCOV; the kernel's build decides
 * which objects are instrumented). Without kcov, inputs are random.
 *
 * Each call must return the errno that <linux/ioasid.h> specifies, if it does,
 * a failed call must change nothing, and a sequence must leave nothing. A
 * failing input is minimised and printed for --replay, one call per line, see
 * call_print().
 */
#define _GNU_SOURCE
#include <getopt.h>
#include <limits.h>
#include <sys/eventfd.h>
#include <sys/syscall.h>
#include <linux/kcov.h>
#include <linux/kvm.h>

#include "../kselftest.h"
#include "cgroup_utils.h"
#include "ioasid_utils.h"
#include "pdma_utils.h"
#include "random_utils.h"

#define ARRAY_LEN(x) (sizeof(x) / sizeof((x)[0]))

/* Type of a descriptor. The first three are opened by the input. */
enum object {
	OBJ_FILE, OBJ_FILES = 3,
	OBJ_VM = OBJ_FILES, OBJ_KVM_DEV,
	OBJ_MDEV, OBJ_MDEV2, OBJ_PATH, OBJ_EVENT, OBJ_CLOSED,
	NR_OBJECTS,
};

#define BAD_FD		900
#define MAX_CALLS	24
#define MAX_WORDS	12
#define MAX_PAYLOAD	8
#define MAX_IDS		64
#define MAX_CORPUS	1024
#define MAX_COUNT	0xfffff

enum command {
	CMD_OPEN, CMD_CLOSE, CMD_DUP, CMD_VM, CMD_FDINFO, CMD_DEBUGFS,
	CMD_INFO, CMD_ALLOC, CMD_FREE, CMD_QUERY, CMD_QUOTA, CMD_LIST, CMD_UNKNOWN,
	CMD_FEATURE, CMD_CREATE, CMD_SET, CMD_HAS, CMD_GET,
	NR_COMMANDS,
};

static const struct {
	const char *name;
	unsigned long nr;
	unsigned int weight;
} commands[NR_COMMANDS] = {
	[CMD_OPEN] = { "open", 0, 8 },
	[CMD_CLOSE] = { "close", 0, 5 },
	[CMD_DUP] = { "dup", 0, 2 },
	[CMD_VM] = { "vm", 0, 2 },
	[CMD_FDINFO] = { "fdinfo", 0, 2 },
	[CMD_DEBUGFS] = { "debugfs", 0, 1 },
	[CMD_INFO] = { "info", IOASID_GET_INFO, 5 },
	[CMD_ALLOC] = { "alloc", IOASID_ALLOC, 16 },
	[CMD_FREE] = { "free", IOASID_FREE, 12 },
	[CMD_QUERY] = { "query", IOASID_QUERY, 8 },
	[CMD_QUOTA] = { "quota", IOASID_SET_QUOTA, 3 },
	[CMD_LIST] = { "list", IOASID_LIST, 5 },
	/* The first word is the ioctl number */
	[CMD_UNKNOWN] = { "ioctl", 0, 2 },
	[CMD_FEATURE] = { "feature", VFIO_DEVICE_FEATURE, 12 },
	[CMD_CREATE] = { "create", KVM_CREATE_DEVICE, 5 },
	[CMD_SET] = { "set", KVM_SET_DEVICE_ATTR, 12 },
	[CMD_HAS] = { "has", KVM_HAS_DEVICE_ATTR, 1 },
	[CMD_GET] = { "get", KVM_GET_DEVICE_ATTR, 3 },
};

/*
 * A word of a struct, with its letter when printed: a number, the nth IOASID
 * allocated by the input, a descriptor, or a pointer. A pointer takes the place
 * of two words.
 */
enum kind {
	KIND_VALUE,		/* hexadecimal */
	KIND_ID,		/* i */
	KIND_FD,		/* o: of that object */
	KIND_PAYLOAD,		/* p: payload, readable and writable */
	KIND_CUT,		/* s: payload, only val bytes accessible */
	KIND_READ_ONLY,		/* r: payload, read-only */
	KIND_KERNEL,		/* k: kernel address */
	NR_KINDS,
};

/* None of these is a hexadecimal digit */
static const char kind_names[] = "xiopsrk";

struct word {
	__u8 kind;
	__u32 val;
};

/* @place: location of the struct, one of the pointer kinds */
struct call {
	__u8 cmd;
	__u8 target;
	__u8 nr_words;
	__u8 nr_payload;
	struct word place;
	struct word words[MAX_WORDS];
	struct word payload[MAX_PAYLOAD];
};

struct input {
	unsigned int len;
	struct call calls[MAX_CALLS];
};

/* Two pages, the second of which is inaccessible, and a read-only page */
struct area {
	char *page;
	char *rdonly;
};

static struct {
	struct area arg, payload;
	long page_size;
	int watch;		/* an unused file of the same set */
	int base_fd;		/* lowest descriptor opened by inputs */
	int fds[NR_OBJECTS];
	bool kvm_ioasid;	/* OBJ_KVM_DEV is an IOASID device */
	struct pdma_dev dev[2];
	char uuid[2][PDMA_UUID_LEN + 1];
	bool cgroup;
	char group[64];
	__u32 ids[MAX_IDS];
	unsigned int nr_ids;
	__u64 rnd;
	char why[256];		/* why the input failed */
} env;

/* kcov */

#define COVER_LEN	(64 << 10)
#define EDGES		0x20000

static struct {
	int fd;
	unsigned long *area;
	__u8 seen[EDGES];
	unsigned int edges;
} cover = { .fd = -1 };

static bool cover_start(void)
{
	cover.fd = open("/sys/kernel/debug/kcov", O_RDWR | O_CLOEXEC);
	if (cover.fd < 0)
		return false;
	if (ioctl(cover.fd, KCOV_INIT_TRACE, COVER_LEN))
		return false;
	cover.area = mmap(NULL, COVER_LEN * sizeof(*cover.area),
			  PROT_READ | PROT_WRITE, MAP_SHARED, cover.fd, 0);
	if (cover.area == MAP_FAILED ||
	    ioctl(cover.fd, KCOV_ENABLE, KCOV_TRACE_PC)) {
		cover.area = NULL;
		return false;
	}
	return true;
}

static void cover_begin(void)
{
	if (cover.area)
		__atomic_store_n(&cover.area[0], 0, __ATOMIC_RELAXED);
}

/* Number of new edges since cover_begin() */
static unsigned int cover_end(void)
{
	unsigned long i, n, pc, last = 0, hash;
	unsigned int new = 0;

	if (!cover.area)
		return 0;
	n = __atomic_load_n(&cover.area[0], __ATOMIC_RELAXED);
	for (i = 1; i <= n; i++) {
		pc = cover.area[i];
		hash = (pc * 0x9e3779b97f4a7c15ull) >> 32;
		if (!cover.seen[(hash ^ (last >> 1)) % EDGES]) {
			cover.seen[(hash ^ (last >> 1)) % EDGES] = 1;
			new++;
		}
		last = hash;
	}
	cover.edges += new;
	return new;
}

/* Reproducible random numbers */

static __u64 rnd(void)
{
	return next_random64(&env.rnd);
}

static unsigned int below(unsigned int n)
{
	return rnd() % n;
}

static bool one_in(unsigned int n)
{
	return !below(n);
}

/* Text format of inputs */

static void word_print(char *buf, size_t len, const struct word *word)
{
	if (word->kind == KIND_VALUE)
		snprintf(buf, len, " %x", word->val);
	else
		snprintf(buf, len, " %c%u", kind_names[word->kind], word->val);
}

/*
 * Print a call: name, descriptor, location of the struct and its words; after a
 * bar, the words of the payload: "free 0 p0 18 0 2 0 p0 | i0 i1"
 */
static void call_print(char *buf, size_t len, const struct call *call)
{
	char *end = buf + len;
	int i;

	buf += snprintf(buf, len, "%s %u", commands[call->cmd].name,
			call->target);
	word_print(buf, end - buf, &call->place);
	for (i = 0; i < call->nr_words; i++) {
		buf += strlen(buf);
		word_print(buf, end - buf, &call->words[i]);
	}
	buf += strlen(buf);
	if (call->nr_payload)
		buf += snprintf(buf, end - buf, " |");
	for (i = 0; i < call->nr_payload; i++) {
		word_print(buf, end - buf, &call->payload[i]);
		buf += strlen(buf);
	}
}

static bool word_parse(const char *text, struct word *word)
{
	const char *kind = strchr(kind_names + 1, *text);
	char *end;

	word->kind = kind ? kind - kind_names : KIND_VALUE;
	if (kind)
		word->val = strtoul(++text, &end, 10);
	else
		word->val = strtoul(text, &end, 16);
	return end != text && !*end;
}

static bool call_parse(char *text, struct call *call)
{
	struct word *words = call->words;
	__u8 *nr = &call->nr_words;
	unsigned int max = MAX_WORDS;
	char *word;

	memset(call, 0, sizeof(*call));
	word = strtok(text, "\n ");
	while (call->cmd < NR_COMMANDS && strcmp(commands[call->cmd].name, word))
		call->cmd++;
	word = strtok(NULL, "\n ");
	if (call->cmd == NR_COMMANDS || !word)
		return false;
	call->target = atoi(word) % NR_OBJECTS;
	word = strtok(NULL, "\n ");
	if (!word || !word_parse(word, &call->place) ||
	    call->place.kind < KIND_PAYLOAD)
		return false;
	while ((word = strtok(NULL, "\n "))) {
		if (!strcmp(word, "|")) {
			words = call->payload;
			nr = &call->nr_payload;
			max = MAX_PAYLOAD;
		} else if (*nr == max || !word_parse(word, &words[(*nr)++])) {
			return false;
		}
	}
	return true;
}

static void input_print(const struct input *input)
{
	char line[512];
	unsigned int i;

	for (i = 0; i < input->len; i++) {
		call_print(line, sizeof(line), &input->calls[i]);
		ksft_print_msg("  %s\n", line);
	}
}

/* Read the output of input_print(), with or without "#" */
static bool input_read(const char *file, struct input *input)
{
	char line[512], *text;
	FILE *f = fopen(file, "r");

	if (!f)
		return false;
	input->len = 0;
	while (fgets(line, sizeof(line), f)) {
		text = line + strspn(line, "# \t\n");
		if (!*text)
			continue;
		if (input->len == MAX_CALLS ||
		    !call_parse(text, &input->calls[input->len++]))
			break;
	}
	text = feof(f) ? line : NULL;
	fclose(f);
	return text && input->len;
}

/* Running an input */

/* Keep the first failure */
#define fail(...) do {							\
	if (!env.why[0])						\
		snprintf(env.why, sizeof(env.why), __VA_ARGS__);	\
} while (0)

static int object_fd(unsigned int object)
{
	int fd = env.fds[object % NR_OBJECTS];

	return fd < 0 ? BAD_FD : fd;
}

static void *pointer(const struct area *area, const struct word *word)
{
	switch (word->kind) {
	case KIND_CUT:
		return area->page + env.page_size - word->val % env.page_size;
	case KIND_READ_ONLY:
		return area->rdonly;
	case KIND_KERNEL:
		return (void *)-4096L;
	default:
		return area->page;
	}
}

/* Write the values of the words to @buf, which is one page */
static void write_words(char *buf, const struct word *words, unsigned int n)
{
	unsigned int i;
	__u64 ptr;
	__u32 val;

	memset(buf, 0, env.page_size);
	for (i = 0; i < n; i++) {
		val = words[i].val;
		switch (words[i].kind) {
		case KIND_VALUE:
			/* Avoid valid pointers into this program */
			if (val > MAX_COUNT + 1 && val < INT_MAX)
				val |= 1U << 31;
			break;
		case KIND_ID:
			val = env.nr_ids ? env.ids[val % env.nr_ids] : 1;
			break;
		case KIND_FD:
			val = object_fd(val);
			break;
		default:
			ptr = (uintptr_t)pointer(&env.payload, &words[i]);
			memcpy(buf, &ptr, sizeof(ptr));
			buf += sizeof(ptr);
			continue;
		}
		memcpy(buf, &val, sizeof(val));
		buf += sizeof(val);
	}
}

/* Same, at @place, as far as that is writable */
static void *write_area(struct area *area, const struct word *place,
			const struct word *words, unsigned int n)
{
	static char buf[1 << 16];
	char *ptr = pointer(area, place);

	write_words(buf, words, n);
	if (place->kind == KIND_CUT) {
		memcpy(ptr, buf, place->val % env.page_size);
	} else if (place->kind == KIND_READ_ONLY) {
		mprotect(ptr, env.page_size, PROT_READ | PROT_WRITE);
		memcpy(ptr, buf, env.page_size);
		mprotect(ptr, env.page_size, PROT_READ);
	} else if (place->kind != KIND_KERNEL) {
		memcpy(ptr, buf, env.page_size);
	}
	return ptr;
}

static const struct word whole = { .kind = KIND_PAYLOAD };

/* Use the location given by the struct, or the default one */
static void write_payload(const struct call *call)
{
	const struct word *place = &whole;
	int i;

	for (i = 0; i < call->nr_words; i++)
		if (call->words[i].kind >= KIND_PAYLOAD)
			place = &call->words[i];
	write_area(&env.payload, place, call->payload, call->nr_payload);
}

static bool is_file(const struct call *call)
{
	return call->target < OBJ_FILES && env.fds[call->target] >= 0;
}

static bool zeroes(const char *buf, size_t len)
{
	while (len && !*buf) {
		buf++;
		len--;
	}
	return !len;
}

/*
 * The errno that a command of /dev/ioasid must return for these arguments, in
 * the order of checks in <linux/ioasid.h>, or 0 if it depends on state.
 */
static int expect_file(const struct call *call, const char *arg)
{
	static const unsigned int sizes[NR_COMMANDS] = {
		[CMD_INFO] = 32, [CMD_ALLOC] = 32, [CMD_FREE] = 24,
		[CMD_QUERY] = 24, [CMD_QUOTA] = 16, [CMD_LIST] = 24,
	};
	unsigned int known = sizes[call->cmd];
	__u32 word[8];

	memcpy(word, arg, sizeof(word));
	if (word[0] < known)
		return -EINVAL;
	if (word[0] > 4096 || !zeroes(arg + known, word[0] - known))
		return -E2BIG;
	if (word[1])
		return -EOPNOTSUPP;
	switch (call->cmd) {
	case CMD_INFO:
		return word[7] ? -EOPNOTSUPP : 0;
	case CMD_ALLOC:
		if (word[5])
			return -EOPNOTSUPP;
		if (!word[2] && !word[3])
			return word[4] && word[4] <= MAX_COUNT ? 0 : -EINVAL;
		return word[2] && word[3] <= MAX_COUNT && word[2] <= word[3] &&
		       word[4] && word[4] <= word[3] - word[2] + 1 ? 0 : -EINVAL;
	case CMD_FREE:
		if (word[3])
			return -EOPNOTSUPP;
		return word[2] && word[2] <= MAX_COUNT ? 0 : -EINVAL;
	case CMD_QUOTA:
		return word[3] ? -EOPNOTSUPP : 0;
	case CMD_LIST:
		return word[3] ? 0 : -EINVAL;
	default:
		return 0;
	}
}

/* Same, for the attributes of the KVM device */
static int expect_kvm(const struct call *call, const char *arg)
{
	struct kvm_device_attr attr;
	struct kvm_ioasid_list list;
	struct kvm_ioasid_map map;
	bool known;

	memcpy(&attr, arg, sizeof(attr));
	known = attr.group == KVM_DEV_IOASID_MAP && attr.attr &&
		attr.attr <= KVM_DEV_IOASID_MAP_GET;
	if (!known || (call->cmd == CMD_SET &&
		       attr.attr == KVM_DEV_IOASID_MAP_GET) ||
	    (call->cmd == CMD_GET && attr.attr != KVM_DEV_IOASID_MAP_GET))
		return attr.flags ? 0 : -ENXIO;
	if (call->cmd == CMD_HAS)
		return 0;
	if (attr.attr == KVM_DEV_IOASID_MAP_CLEAR)
		return attr.addr ? -EINVAL : 0;
	if (attr.attr == KVM_DEV_IOASID_MAP_DEL ||
	    attr.addr != (uintptr_t)env.payload.page)
		return 0;
	if (attr.attr == KVM_DEV_IOASID_MAP_GET) {
		memcpy(&list, env.payload.page, sizeof(list));
		if (list.flags || list.__reserved)
			return -EOPNOTSUPP;
		return list.count ? 0 : -EINVAL;
	}
	memcpy(&map, env.payload.page, sizeof(map));
	if (map.flags & ~KVM_IOASID_MAP_REPLACE || map.__reserved)
		return -EOPNOTSUPP;
	return map.guest_pasid > 0xfffff ? -EINVAL : 0;
}

/* Same, for adding an IOASID to a device and for dropping it */
static int expect_device(const char *arg)
{
	const __u32 ops = VFIO_DEVICE_IOASID_ADD | VFIO_DEVICE_IOASID_REPLACE |
			  VFIO_DEVICE_IOASID_DROP | VFIO_DEVICE_IOASID_DROP_ALL;
	struct pdma_feature feature;
	__u32 op;

	memcpy(&feature, arg, sizeof(feature));
	op = feature.ioasid.flags;
	if (feature.header.argsz < sizeof(feature) || feature.header.flags !=
	    (VFIO_DEVICE_FEATURE_SET | VFIO_DEVICE_FEATURE_IOASID))
		return 0;
	if ((op & ~ops) || feature.ioasid.__reserved)
		return -EOPNOTSUPP;
	if (!op || (op & (op - 1)) ||
	    (op != VFIO_DEVICE_IOASID_REPLACE && feature.ioasid.old_id))
		return -EINVAL;
	if (op == VFIO_DEVICE_IOASID_DROP || op == VFIO_DEVICE_IOASID_DROP_ALL)
		return feature.ioasid.fd != -1 ? -EINVAL : 0;
	return 0;
}

static int expect(const struct call *call, unsigned long nr, const char *arg)
{
	bool file = is_file(call);

	if (env.fds[call->target] < 0 || call->target == OBJ_PATH)
		return -EBADF;
	if (file && call->cmd == CMD_UNKNOWN) {
		/* It may be a valid number */
		return nr < IOASID_GET_INFO || nr > IOASID_LIST ? -ENOTTY : 0;
	}
	if (file && (call->cmd < CMD_INFO || call->cmd > CMD_LIST))
		return -ENOTTY;
	if (call->place.kind == KIND_KERNEL)
		return file ? -EFAULT : 0;
	if (call->place.kind == KIND_CUT)
		return 0;
	if (file)
		return expect_file(call, arg);
	if (call->target == OBJ_KVM_DEV && env.kvm_ioasid &&
	    (call->cmd == CMD_SET || call->cmd == CMD_HAS ||
	     call->cmd == CMD_GET))
		return expect_kvm(call, arg);
	if ((call->target == OBJ_MDEV || call->target == OBJ_MDEV2) &&
	    call->cmd == CMD_FEATURE)
		return expect_device(arg);
	return 0;
}

/* Whether the errno is documented for the command */
static bool documented(const struct call *call, int error)
{
	switch (error) {
	case EINVAL: case E2BIG: case EOPNOTSUPP: case EFAULT: case ENOMEM:
		return true;
	case EBADF:
		return !is_file(call);
	case ENOTTY:
		return !is_file(call) || call->cmd < CMD_INFO ||
		       call->cmd > CMD_LIST;
	case ENOSPC: case EDQUOT:
		return call->cmd == CMD_ALLOC || call->cmd == CMD_UNKNOWN;
	case ENOENT:
		return call->cmd != CMD_INFO && call->cmd != CMD_ALLOC &&
		       call->cmd != CMD_QUOTA && call->cmd != CMD_LIST;
	case ESHUTDOWN:
		return call->cmd == CMD_FEATURE || call->cmd == CMD_SET;
	default:
		/* Errors of KVM and VFIO */
		return !is_file(call);
	}
}

static void remember(const __u32 *ids, unsigned int count)
{
	while (count-- && env.nr_ids < MAX_IDS)
		env.ids[env.nr_ids++] = *ids++;
}

/* @count IDs were allocated to the array given by the struct */
static void check_numbers(const char *arg, unsigned int count)
{
	struct ioasid_alloc alloc;
	const __u32 *ids;
	unsigned int i;

	memcpy(&alloc, arg, sizeof(alloc));
	if (!alloc.min && !alloc.max) {
		alloc.min = 1;
		alloc.max = MAX_COUNT;
	}
	ids = (const __u32 *)(uintptr_t)alloc.ids;
	for (i = 0; i < count; i++)
		if (ids[i] < alloc.min || ids[i] > alloc.max)
			fail("%u is not in %u..%u", ids[i], alloc.min,
			     alloc.max);
	remember(ids, count);
}

/* Counts of this process, and the quota of the called file */
static void get_counts(const struct call *call, struct ioasid_info *info)
{
	__u32 active = 0, parked = 0;

	*info = (struct ioasid_info){};
	if (is_file(call) && ioasid_get_info(object_fd(call->target), info))
		fail("GET_INFO: %s", strerror(errno));
	if (ioasid_set_counts(env.watch, &active, &parked))
		fail("fdinfo: %s", strerror(errno));
	info->active = active;
	info->parked = parked;
}

/* Compare with the changes that the call should have made */
static void check_counts(const struct call *call, int error, const char *arg,
			 const struct ioasid_info *before)
{
	struct ioasid_info after;
	__u32 count, active = before->active, quota = before->quota;

	get_counts(call, &after);
	memcpy(&count, arg + (call->cmd == CMD_ALLOC ? 16 : 8), sizeof(count));
	if (!error && is_file(call)) {
		switch (call->cmd) {
		case CMD_ALLOC:
			active += count;
			break;
		case CMD_FREE:
			active -= count;
			break;
		case CMD_QUOTA:
			quota = count;
			break;
		}
	}
	if (after.active != active)
		fail("%u are active, not %u", after.active, active);
	if (after.quota != quota)
		fail("the quota is %u, not %u", after.quota, quota);
}

static void run_ioctl(const struct call *call)
{
	static char before[1 << 16];
	unsigned int skip = call->cmd == CMD_UNKNOWN && call->nr_words;
	unsigned long nr = skip ? call->words[0].val : commands[call->cmd].nr;
	struct word place = call->place;
	struct ioasid_info info;
	int error, expected;
	char *arg;

	/* The new descriptor must be readable, so that it can be closed */
	if (call->cmd == CMD_CREATE)
		place = whole;
	write_payload(call);
	arg = write_area(&env.arg, &place, call->words + skip,
			 call->nr_words - skip);
	if (place.kind == KIND_PAYLOAD || place.kind == KIND_READ_ONLY)
		memcpy(before, arg, env.page_size);
	expected = expect(call, nr, arg);
	get_counts(call, &info);

	error = ioasid_ioctl(object_fd(call->target), nr, arg);

	if (expected && error != expected)
		fail("%s instead of %s", strerror(-error),
		     strerror(-expected));
	if (error && !documented(call, -error))
		fail("%s is not documented", strerror(-error));
	if (place.kind == KIND_PAYLOAD && error && is_file(call) &&
	    memcmp(before, arg, env.page_size))
		fail("the struct was written to");
	if (!error && call->cmd == CMD_CREATE && call->target == OBJ_VM) {
		struct kvm_create_device *create = (void *)arg;

		if (!(create->flags & KVM_CREATE_DEVICE_TEST)) {
			env.fds[OBJ_KVM_DEV] = create->fd;
			env.kvm_ioasid = create->type == KVM_DEV_TYPE_IOASID;
		}
	}
	if (call->cmd == CMD_UNKNOWN || place.kind == KIND_CUT ||
	    place.kind == KIND_KERNEL)
		arg = before;
	/* Check results only if the whole struct was accessible */
	if (!error && call->cmd == CMD_ALLOC && is_file(call) && arg != before)
		check_numbers(arg, ((struct ioasid_alloc *)arg)->count);
	if (error || arg != before)
		check_counts(call, error, arg, &info);
}

static void read_all(const char *path)
{
	char buf[4096];
	int fd = open(path, O_RDONLY | O_CLOEXEC);

	if (fd < 0)
		return;
	while (read(fd, buf, sizeof(buf)) > 0)
		;
	close(fd);
}

static void run_call(const struct call *call)
{
	unsigned int file = call->target % OBJ_FILES;
	unsigned int target = call->target % NR_OBJECTS;
	int *fd = &env.fds[target];
	char path[64];
	int kvm;

	switch (call->cmd) {
	case CMD_OPEN:
		if (env.fds[file] < 0)
			env.fds[file] = ioasid_open();
		break;
	case CMD_DUP:
		if (env.fds[file] < 0)
			env.fds[file] = dup(object_fd(call->words[0].val %
						      OBJ_FILES));
		break;
	case CMD_CLOSE:
		if (target > OBJ_KVM_DEV || *fd < 0)
			break;
		close(*fd);
		*fd = -1;
		break;
	case CMD_VM:
		kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);
		if (kvm < 0)
			break;
		if (env.fds[OBJ_VM] < 0)
			env.fds[OBJ_VM] = ioctl(kvm, KVM_CREATE_VM, 0);
		close(kvm);
		break;
	case CMD_FDINFO:
		snprintf(path, sizeof(path), "/proc/self/fdinfo/%d",
			 object_fd(target));
		read_all(path);
		break;
	case CMD_DEBUGFS:
		read_all("/sys/kernel/debug/ioasid/ioasids");
		read_all("/sys/kernel/debug/ioasid/refs");
		break;
	default:
		run_ioctl(call);
	}
}

static long number_in(const char *path)
{
	char buf[32];

	return pdma_read_file(path, buf, sizeof(buf)) ? -1 : atol(buf);
}

/* Number of lines, for all IOASIDs of the machine */
static unsigned int count_ioasids(void)
{
	FILE *f = fopen("/sys/kernel/debug/ioasid/ioasids", "r");
	unsigned int lines = 0;
	int c;

	if (!f)
		return 0;
	while ((c = fgetc(f)) != EOF)
		lines += c == '\n';
	fclose(f);
	return lines;
}

struct state {
	__u32 active;
	__u32 parked;
	unsigned int ioasids;
	long long charged;
	long taint;		/* changes if the kernel warns */
};

static void get_state(struct state *state)
{
	*state = (struct state){
		.ioasids = count_ioasids(),
		.taint = number_in("/proc/sys/kernel/tainted"),
		.charged = env.cgroup ? current_of(env.group) : 0,
	};
	if (ioasid_set_counts(env.watch, &state->active, &state->parked))
		fail("fdinfo: %s", strerror(errno));
}

static void check_free(void)
{
	unsigned int i;
	__u32 id;

	for (i = 0; i < env.nr_ids; i++) {
		if (ioasid_alloc(env.watch, env.ids[i], env.ids[i], 1, &id)) {
			fail("the number %u is lost", env.ids[i]);
			continue;
		}
		ioasid_free(env.watch, 1, &id);
	}
}

static void check_left(const struct state *before)
{
	struct state after;
	bool same;

	same = wait_until_ms(({
		get_state(&after);
		after.active == before->active &&
		after.parked == before->parked &&
		after.ioasids == before->ioasids &&
		after.charged == before->charged;
	}), 5000);
	if (!same)
		fail("left: %d active, %d parked, %d in debugfs, %lld in the cgroup",
		     after.active - before->active,
		     after.parked - before->parked,
		     after.ioasids - before->ioasids,
		     after.charged - before->charged);
	else
		check_free();
	if (after.taint != before->taint)
		fail("the kernel complains, see its log");
}

/* Returns true if nothing is wrong, else env.why is set */
static bool input_run(const struct input *input, unsigned int *new)
{
	struct state before;
	unsigned int i;

	env.why[0] = 0;
	env.nr_ids = 0;
	env.kvm_ioasid = false;
	for (i = 0; i <= OBJ_KVM_DEV; i++)
		env.fds[i] = -1;
	get_state(&before);

	*new = 0;
	for (i = 0; i < input->len && !env.why[0]; i++) {
		cover_begin();
		run_call(&input->calls[i]);
		*new += cover_end();
	}
	cover_begin();
	for (i = 0; i < 2; i++)
		if (env.dev[i].device >= 0)
			pdma_drop_all_ioasids(&env.dev[i]);
	syscall(SYS_close_range, env.base_fd, ~0U, 0);
	*new += cover_end();
	check_left(&before);
	return !env.why[0];
}

/* Making inputs */

static const __u32 interesting[] = {
	0, 1, 2, 3, 7, 8, 15, 16, 17, 24, 31, 32, 33, 40, 64, 100, 0x3ff, 0x400,
	4095, 4096, 4097, 0xffff, 0xffffe, 0xfffff, 0x100000, 0x7fffffff,
	0x80000000, 0xfffffffe, 0xffffffff,
};

static __u32 any_value(void)
{
	return one_in(8) ? rnd() :
			   interesting[below(ARRAY_LEN(interesting))];
}

static struct word any_pointer(void)
{
	static const __u32 cuts[] = { 0, 1, 3, 4, 8, 16, 20, 23, 24, 31, 32 };

	return (struct word){
		.kind = KIND_PAYLOAD + below(NR_KINDS - KIND_PAYLOAD),
		.val = cuts[below(ARRAY_LEN(cuts))],
	};
}

static struct word any_word(void)
{
	switch (below(8)) {
	case 0:
		return (struct word){ KIND_ID, below(MAX_IDS) };
	case 1:
		return (struct word){ KIND_FD, below(NR_OBJECTS) };
	default:
		return (struct word){ KIND_VALUE, any_value() };
	}
}

#define V(_val)	((struct word){ KIND_VALUE, _val })
#define ID()	((struct word){ KIND_ID, below(MAX_IDS) })
#define FD(_obj) ((struct word){ KIND_FD, _obj })
#define PTR()	(one_in(8) ? any_pointer() : whole)

static void add_word(struct call *call, struct word word)
{
	call->words[call->nr_words++] = word;
}

static void add_payload(struct call *call, struct word word)
{
	call->payload[call->nr_payload++] = word;
}

static void make_alloc(struct call *call)
{
	__u32 count = one_in(4) ? any_value() : 1 + below(20);
	__u32 min = one_in(2) ? 0 : 1 + below(40);

	add_word(call, V(32));
	add_word(call, V(0));
	add_word(call, V(min));
	add_word(call, V(min ? min + below(40) : 0));
	/* The payload has room for a page of IDs only */
	add_word(call, V(count > 1000 ? any_value() : count));
	add_word(call, V(0));
	add_word(call, PTR());
}

static void make_free(struct call *call)
{
	unsigned int i, n = 1 + below(MAX_PAYLOAD);

	add_word(call, V(24));
	add_word(call, V(0));
	add_word(call, V(one_in(16) ? 20 : n));
	add_word(call, V(0));
	add_word(call, PTR());
	for (i = 0; i < n; i++)
		add_payload(call, one_in(16) ? any_word() :
			    (struct word){ KIND_ID, i + below(3) });
}

static void make_list(struct call *call)
{
	add_word(call, V(24));
	add_word(call, V(0));
	add_word(call, one_in(2) ? ID() : V(below(3)));
	add_word(call, V(one_in(8) ? any_value() : below(20)));
	add_word(call, PTR());
}

static void make_feature(struct call *call)
{
	static const __u32 ops[] = {
		VFIO_DEVICE_FEATURE_SET, VFIO_DEVICE_FEATURE_SET,
		VFIO_DEVICE_FEATURE_SET, VFIO_DEVICE_FEATURE_GET,
		VFIO_DEVICE_FEATURE_PROBE, 0,
	};

	__u32 op = ops[below(6)];

	call->target = OBJ_MDEV + below(2);
	add_word(call, V(sizeof(struct pdma_feature)));
	add_word(call, V(VFIO_DEVICE_FEATURE_IOASID | op));
	if (op == VFIO_DEVICE_FEATURE_GET) {
		add_word(call, V(0));
		add_word(call, V(0));
		add_word(call, V(one_in(2) ? 0 : any_value()));
		add_word(call, V(one_in(2) ? below(20) : any_value()));
		add_word(call, PTR());
		return;
	}
	switch (below(4)) {
	case 0:
		add_word(call, V(VFIO_DEVICE_IOASID_REPLACE));
		add_word(call, FD(below(OBJ_FILES)));
		add_word(call, ID());
		add_word(call, ID());
		break;
	case 1:
		add_word(call, V(VFIO_DEVICE_IOASID_DROP));
		add_word(call, V(-1));
		add_word(call, ID());
		break;
	case 2:
		add_word(call, V(one_in(8) ? any_value() :
				 VFIO_DEVICE_IOASID_DROP_ALL));
		add_word(call, V(-1));
		break;
	default:
		add_word(call, V(VFIO_DEVICE_IOASID_ADD));
		add_word(call, FD(below(OBJ_FILES)));
		add_word(call, ID());
	}
}

static void make_attr(struct call *call)
{
	static const __u8 to_set[] = {
		KVM_DEV_IOASID_MAP_ADD, KVM_DEV_IOASID_MAP_ADD,
		KVM_DEV_IOASID_MAP_ADD, KVM_DEV_IOASID_MAP_ADD,
		KVM_DEV_IOASID_MAP_DEL, KVM_DEV_IOASID_MAP_DEL,
		KVM_DEV_IOASID_MAP_CLEAR,
	};
	__u32 nr = call->cmd == CMD_GET ? KVM_DEV_IOASID_MAP_GET :
					  to_set[below(ARRAY_LEN(to_set))];

	call->target = OBJ_KVM_DEV;
	add_word(call, V(0));
	add_word(call, V(KVM_DEV_IOASID_MAP));
	add_word(call, V(nr));
	add_word(call, V(0));
	add_word(call, nr == KVM_DEV_IOASID_MAP_CLEAR && !one_in(8) ? V(0) :
								      PTR());
	switch (nr) {
	case KVM_DEV_IOASID_MAP_ADD:
		add_payload(call, V(one_in(3) ? KVM_IOASID_MAP_REPLACE : 0));
		add_payload(call, FD(below(OBJ_FILES)));
		add_payload(call, ID());
		add_payload(call, V(below(4)));
		add_payload(call, V(0));
		add_payload(call, V(0));
		break;
	case KVM_DEV_IOASID_MAP_DEL:
		add_payload(call, V(below(4)));
		break;
	case KVM_DEV_IOASID_MAP_GET:
		add_payload(call, V(0));
		add_payload(call, V(below(4)));
		add_payload(call, V(one_in(4) ? any_value() : 1 + below(4)));
		add_payload(call, V(0));
		add_payload(call, PTR());
		break;
	}
}

/* Make a call that is mostly valid */
static void make_call(struct call *call, enum command cmd)
{
	*call = (struct call){
		.cmd = cmd,
		.target = below(OBJ_FILES),
		.place = PTR(),
	};
	switch (cmd) {
	case CMD_DUP:
		add_word(call, V(below(OBJ_FILES)));
		break;
	case CMD_CLOSE:
	case CMD_FDINFO:
		call->target = below(OBJ_KVM_DEV + 1);
		break;
	case CMD_INFO:
		add_word(call, V(32));
		break;
	case CMD_ALLOC:
		make_alloc(call);
		break;
	case CMD_FREE:
		make_free(call);
		break;
	case CMD_QUERY:
		add_word(call, V(24));
		add_word(call, V(0));
		add_word(call, ID());
		break;
	case CMD_QUOTA:
		add_word(call, V(16));
		add_word(call, V(0));
		add_word(call, V(any_value()));
		break;
	case CMD_LIST:
		make_list(call);
		break;
	case CMD_UNKNOWN:
		/* With size and direction bits, or an unused number */
		add_word(call, V(IOASID_GET_INFO + below(9) +
				 (one_in(2) ? 0xc0200000 : 0)));
		add_word(call, V(32));
		break;
	case CMD_FEATURE:
		make_feature(call);
		break;
	case CMD_CREATE:
		call->target = OBJ_VM;
		add_word(call, V(one_in(8) ? below(40) : KVM_DEV_TYPE_IOASID));
		add_word(call, V(-1));
		add_word(call, V(one_in(8)));
		break;
	case CMD_SET:
	case CMD_HAS:
	case CMD_GET:
		make_attr(call);
		break;
	default:
		break;
	}
}

static enum command any_command(void)
{
	unsigned int i, sum = 0;

	for (i = 0; i < NR_COMMANDS; i++)
		sum += commands[i].weight;
	sum = below(sum);
	for (i = 0; sum >= commands[i].weight; i++)
		sum -= commands[i].weight;
	return i;
}

/* Start with files and IOASIDs, sometimes with a VM, which is slow */
static void make_input(struct input *input)
{
	static const enum command first[] = {
		CMD_OPEN, CMD_ALLOC, CMD_VM, CMD_CREATE,
	};
	unsigned int i, n = 4 + below(12), begin = 2 + 2 * below(2);

	for (i = 0; i < n; i++)
		make_call(&input->calls[i], i < begin && !one_in(8) ?
					    first[i] : any_command());
	input->len = n;
}

static void mutate_words(struct word *words, __u8 *nr, unsigned int max)
{
	unsigned int at = *nr ? below(*nr) : 0;

	switch (below(8)) {
	case 0:
		if (*nr == max)
			break;
		memmove(words + at + 1, words + at,
			(*nr - at) * sizeof(*words));
		(*nr)++;
		words[at] = any_word();
		break;
	case 1:
		if (!*nr)
			break;
		(*nr)--;
		memmove(words + at, words + at + 1,
			(*nr - at) * sizeof(*words));
		break;
	case 2:
		if (*nr < max)
			words[(*nr)++] = any_word();
		break;
	default:
		if (!*nr)
			break;
		if (words[at].kind >= KIND_PAYLOAD)
			words[at] = any_pointer();
		else if (words[at].kind == KIND_VALUE && one_in(2))
			words[at].val += 1 - 2 * below(2);
		else if (words[at].kind == KIND_VALUE && one_in(3))
			words[at].val ^= 1U << below(32);
		else
			words[at] = any_word();
	}
}

static void mutate_call(struct call *call)
{
	switch (below(8)) {
	case 0:
		call->target = below(NR_OBJECTS);
		break;
	case 1:
		call->place = any_pointer();
		break;
	case 2:
	case 3:
		mutate_words(call->payload, &call->nr_payload, MAX_PAYLOAD);
		break;
	default:
		mutate_words(call->words, &call->nr_words, MAX_WORDS);
	}
}

static void delete_call(struct input *input, unsigned int at)
{
	input->len--;
	memmove(&input->calls[at], &input->calls[at + 1],
		(input->len - at) * sizeof(input->calls[0]));
}

/* Insert part of @other at a random place */
static void splice_calls(struct input *input, const struct input *other)
{
	unsigned int from = below(other->len), at = below(input->len + 1);
	unsigned int n = 1 + below(other->len - from);

	if (n > MAX_CALLS - at)
		n = MAX_CALLS - at;
	memcpy(&input->calls[at], &other->calls[from],
	       n * sizeof(input->calls[0]));
	if (input->len < at + n)
		input->len = at + n;
}

static void mutate(struct input *input, const struct input *other)
{
	unsigned int at, i, n = 1 + below(4);

	for (i = 0; i < n; i++) {
		at = below(input->len);
		switch (below(8)) {
		case 0:
			if (input->len > 1)
				delete_call(input, at);
			break;
		case 1:
			splice_calls(input, other);
			break;
		case 2:
			if (input->len < MAX_CALLS)
				make_call(&input->calls[input->len++],
					  any_command());
			break;
		default:
			mutate_call(&input->calls[at]);
		}
	}
}

/*
 * Remove calls that are not needed to fail. This may lose the failure, as state
 * leaked by an earlier run is not detected again.
 */
static void shrink(struct input *input)
{
	char why[sizeof(env.why)];
	struct input less;
	unsigned int i, new;

	strcpy(why, env.why);
	for (i = input->len; i-- && input->len > 1;) {
		less = *input;
		delete_call(&less, i);
		if (!input_run(&less, &new)) {
			*input = less;
			strcpy(why, env.why);
		}
	}
	strcpy(env.why, why);
}

static bool search(unsigned long execs, unsigned long seconds,
		   struct input *input)
{
	static struct input corpus[MAX_CORPUS];
	__u64 end = now_us() + seconds * 1000000ull, start = now_us();
	__u64 told = start;
	unsigned long done, kept = 0;
	unsigned int new;

	for (done = 0; done < execs; done++) {
		if (seconds && now_us() > end)
			break;
		if (!kept || one_in(5)) {
			make_input(input);
		} else {
			*input = corpus[below(kept)];
			mutate(input, &corpus[below(kept)]);
		}
		if (!input_run(input, &new))
			return false;
		if (new && kept < MAX_CORPUS)
			corpus[kept++] = *input;
		if (now_us() - told > 30 * 1000000ull) {
			told = now_us();
			ksft_print_msg("%lu inputs, %u edges, %lu kept, %llu s\n",
				       done, cover.edges, kept,
				       (told - start) / 1000000);
		}
	}
	ksft_print_msg("fuzz: %lu inputs, %u edges, %lu kept, %llu s\n", done,
		       cover.edges, kept, (now_us() - start) / 1000000);
	return true;
}

/* Setup */

static bool map_area(struct area *area)
{
	area->page = mmap(NULL, 2 * env.page_size, PROT_READ | PROT_WRITE,
			  MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	area->rdonly = mmap(NULL, env.page_size, PROT_READ,
			    MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	return area->page != MAP_FAILED && area->rdonly != MAP_FAILED &&
	       !mprotect(area->page + env.page_size, env.page_size, PROT_NONE);
}

/* Up to two mediated devices of one engine */
static unsigned int setup_devices(void)
{
	char parent[NAME_MAX + 1];
	unsigned int i, n = 0;

	for (i = 0; i < 2; i++)
		pdma_init(&env.dev[i]);
	if (pdma_find_parent(0, parent))
		return 0;
	for (i = 0; i < 2; i++) {
		if (pdma_create(parent, env.uuid[i])) {
			env.uuid[i][0] = 0;
			continue;
		}
		n += !pdma_open_group(&env.dev[i], env.uuid[i], NULL);
	}
	return n;
}

/* KVM waits for many grace periods; their duration is not under test */
static void setup_grace_periods(const char *expedited)
{
	pdma_write_file("/sys/kernel/rcu_expedited", expedited);
}

static bool setup_cgroup(void)
{
	const char *why;

	if (find_controller(&why))
		return false;
	snprintf(env.group, sizeof(env.group), CGROUP_ROOT "/ioasid-fuzz-%d",
		 getpid());
	return !mkdir(env.group, 0755) && !enter(env.group);
}

/* @clean: nothing was leaked, so waiting for the cgroup makes sense */
static bool tear_down(bool clean)
{
	bool ok = true;
	int i;

	setup_grace_periods("0");
	close(env.watch);
	for (i = 0; i < 2; i++) {
		pdma_close(&env.dev[i]);
		if (env.uuid[i][0])
			ok &= !pdma_remove(env.uuid[i]);
	}
	if (env.cgroup && !enter(CGROUP_ROOT) && clean)
		ok &= !wait_current(env.group, 0) &&
		      wait_until(!rmdir(env.group));
	return ok;
}

/* Check that inputs survive printing and parsing, as needed for replay */
static bool text_is_the_input(void)
{
	char text[512], again[512];
	struct input input;
	struct call call;
	unsigned int i, j;

	for (i = 0; i < 200; i++) {
		make_input(&input);
		mutate(&input, &input);
		for (j = 0; j < input.len; j++) {
			call_print(text, sizeof(text), &input.calls[j]);
			strcpy(again, text);
			if (!call_parse(again, &call))
				return false;
			call_print(again, sizeof(again), &call);
			if (strcmp(text, again))
				return false;
		}
	}
	return true;
}

int main(int argc, char **argv)
{
	static const struct option options[] = {
		{ "execs", required_argument, NULL, 'n' },
		{ "seconds", required_argument, NULL, 't' },
		{ "seed", required_argument, NULL, 's' },
		{ "replay", required_argument, NULL, 'r' },
		{}
	};
	unsigned long seconds = setting("FUZZ_SECONDS", 20);
	unsigned long execs = setting("FUZZ_EXECS", times(2000));
	unsigned long seed = setting("FUZZ_SEED", 1);
	const char *file = getenv("FUZZ_REPLAY");
	struct input input;
	unsigned int new, devices;
	bool ok, clean, kcov;
	int c;

	while ((c = getopt_long(argc, argv, "", options, NULL)) != -1) {
		switch (c) {
		case 'n':
			execs = strtoul(optarg, NULL, 0);
			break;
		case 't':
			seconds = strtoul(optarg, NULL, 0);
			break;
		case 's':
			seed = strtoul(optarg, NULL, 0);
			break;
		case 'r':
			file = optarg;
			break;
		default:
			return KSFT_FAIL;
		}
	}

	ksft_print_header();
	env.watch = ioasid_open();
	if (env.watch < 0)
		ksft_exit_skip("no " IOASID_DEV "\n");
	env.page_size = sysconf(_SC_PAGESIZE);
	if (!map_area(&env.arg) || !map_area(&env.payload))
		ksft_exit_fail_msg("no memory\n");
	ksft_set_plan(4);
	env.rnd = seed;
	setup_grace_periods("1");
	env.cgroup = setup_cgroup();
	devices = setup_devices();
	for (c = 0; c < NR_OBJECTS; c++)
		env.fds[c] = -1;
	env.fds[OBJ_MDEV] = env.dev[0].device;
	env.fds[OBJ_MDEV2] = env.dev[1].device;
	env.fds[OBJ_PATH] = open(IOASID_DEV, O_PATH | O_CLOEXEC);
	env.fds[OBJ_EVENT] = eventfd(0, EFD_CLOEXEC);
	kcov = cover_start();
	env.base_fd = dup(env.watch);
	close(env.base_fd);
	ksft_print_msg("seed %lu, %u devices, %s cgroup, %s kcov\n", seed,
		       devices, env.cgroup ? "with" : "no",
		       kcov ? "with" : "no");

	ksft_test_result(text_is_the_input(), "every_input_can_be_replayed\n");
	if (file) {
		if (!input_read(file, &input))
			ksft_exit_fail_msg("%s is no input\n", file);
		ok = input_run(&input, &new);
	} else {
		ok = search(execs, seconds, &input);
		if (!ok)
			shrink(&input);
	}
	if (!ok) {
		ksft_print_msg("failed: %s\n", env.why);
		input_print(&input);
	}
	ksft_test_result(ok, "no_call_breaks_a_rule\n");
	if (kcov && !file)
		ksft_test_result(cover.edges > 100,
				 "search_is_guided_by_coverage\n");
	else
		ksft_test_result_skip("search_is_guided_by_coverage\n");
	/* What a failed input left behind was reported already */
	clean = tear_down(ok);
	if (ok)
		ksft_test_result(clean, "nothing_is_left\n");
	else
		ksft_test_result_skip("nothing_is_left\n");
	ksft_finished();
}
