/*
 * Faults of nf_tables, at the netlink socket of one process.
 *
 * Loaded with LD_PRELOAD, this library stands between a program and the socket calls of its C library, so that the
 * program itself knows nothing of it. It looks at netlink sockets of the netfilter family only, and there at nf_tables
 * messages only: conntrack uses the same family and passes unchanged, as do all other sockets.
 *
 * NFTFAULT names a control file, which is read at every transaction. Missing or empty means no fault. Its first word:
 *
 *   eperm        the message is sent without CAP_NET_ADMIN: the kernel itself refuses it, dumps and batches alike
 *   nochain      the chain type "nat" and the expression "nat" in a batch become ones that the kernel lacks: it
 *                answers ENOENT
 *   nosupport    the batch goes to a subsystem that the kernel lacks: it answers EOPNOTSUPP, as without nf_tables
 *   noowner      a table's flags beyond dormant become one that no kernel knows: it answers EOPNOTSUPP, as before 6.9
 *   fail         as before, but the answer arrives as ENOMEM
 *   hang         a batch waits until the file says something else, as behind another program's commit mutex
 *   flowtable    a list of flowtables shows one for each table, with the table's name and none of its own
 *   deaf         no socket joins a multicast group of the family: EPERM
 *   refuse-open  no new socket of the family, as a kernel built without netfilter's netlink
 *
 * Whatever was obeyed is appended as a line to the file of that name with ".met" at its end.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/netfilter/nf_tables.h>
#include <linux/netfilter/nfnetlink.h>
#include <linux/netlink.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

/* NFNL_SUBSYS_NONE, which nothing can register. */
#define NO_SUBSYSTEM 0
#define POLL_US 5000
#define MAX_FD 65536

/* Descriptors whose next refusal is to arrive as another error. */
static int renamed[MAX_FD];

/* Descriptors whose next answers about tables are to read as answers about flowtables. */
static int retyped[MAX_FD];

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

static void fault(char *word, size_t size)
{
	const char *path = getenv("NFTFAULT");
	int fd = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
	ssize_t n = fd < 0 ? 0 : read(fd, word, size - 1);

	if (fd >= 0)
		close(fd);
	word[n > 0 ? n : 0] = 0;
	word[strcspn(word, " \r\n")] = 0;
}

static void met(const char *what, const char *message)
{
	char path[4096], line[64];
	int n = snprintf(line, sizeof(line), "%s %s\n", what, message);

	snprintf(path, sizeof(path), "%s.met", getenv("NFTFAULT"));
	int fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
	if (fd < 0 || write(fd, line, n) != n)
		abort();
	close(fd);
}

static int is_netfilter(int fd)
{
	int domain = 0, protocol = 0;
	socklen_t size = sizeof(int);

	if (fd < 0 || fd >= MAX_FD || getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &size) || domain != AF_NETLINK)
		return 0;
	size = sizeof(int);
	return !getsockopt(fd, SOL_SOCKET, SO_PROTOCOL, &protocol, &size) && protocol == NETLINK_NETFILTER;
}

/* What a datagram is to nf_tables: 0 nothing, 1 a request, 2 a transaction. */
static int kind(const unsigned char *bytes, size_t len)
{
	const struct nlmsghdr *header = (const void *)bytes;
	const struct nfgenmsg *generic = NLMSG_DATA(header);

	if (len < NLMSG_LENGTH(sizeof(*generic)))
		return 0;
	if (header->nlmsg_type == NFNL_MSG_BATCH_BEGIN)
		return ntohs(generic->res_id) == NFNL_SUBSYS_NFTABLES ? 2 : 0;
	return NFNL_SUBSYS_ID(header->nlmsg_type) == NFNL_SUBSYS_NFTABLES;
}

/*
 * Names that only a kernel with NAT knows: of chain types, and of expressions, since a replacement may keep its chains.
 * Both are an attribute with the string "nat", aligned as every attribute is.
 */
static void damage_nat(unsigned char *bytes, size_t len)
{
	for (size_t at = 0; at + sizeof(struct nlmsghdr) <= len;) {
		struct nlmsghdr *header = (void *)(bytes + at);
		size_t end = at + header->nlmsg_len;
		if (header->nlmsg_len < sizeof(*header) || end > len)
			return;
		int type = NFNL_MSG_TYPE(header->nlmsg_type);
		struct nlattr wanted = { NLA_HDRLEN + 4, type == NFT_MSG_NEWCHAIN ? NFTA_CHAIN_TYPE : NFTA_EXPR_NAME };
		size_t attr = at + NLMSG_LENGTH(sizeof(struct nfgenmsg));
		int ours = NFNL_SUBSYS_ID(header->nlmsg_type) == NFNL_SUBSYS_NFTABLES;
		ours = ours && (type == NFT_MSG_NEWCHAIN || type == NFT_MSG_NEWRULE);
		for (; ours && attr + wanted.nla_len <= end; attr += NLA_ALIGNTO)
			if (!memcmp(bytes + attr, &wanted, NLA_HDRLEN) && !memcmp(bytes + attr + NLA_HDRLEN, "nat", 4))
				memcpy(bytes + attr + NLA_HDRLEN, "xxx", 3);
		at += NLMSG_ALIGN(header->nlmsg_len);
	}
}

/* The flags owner and persist of a table become a flag that no kernel knows. */
static void damage_owner(unsigned char *bytes, size_t len)
{
	for (size_t at = 0; at + sizeof(struct nlmsghdr) <= len;) {
		struct nlmsghdr *header = (void *)(bytes + at);
		size_t end = at + header->nlmsg_len;
		if (header->nlmsg_len < sizeof(*header) || end > len)
			return;
		struct nlattr wanted = { NLA_HDRLEN + 4, NFTA_TABLE_FLAGS };
		size_t attr = at + NLMSG_LENGTH(sizeof(struct nfgenmsg));
		int ours = header->nlmsg_type == ((NFNL_SUBSYS_NFTABLES << 8) | NFT_MSG_NEWTABLE);
		for (; ours && attr + wanted.nla_len <= end; attr += NLA_ALIGNTO)
			if (!memcmp(bytes + attr, &wanted, NLA_HDRLEN) && bytes[attr + NLA_HDRLEN + 3] > NFT_TABLE_F_DORMANT)
				bytes[attr + NLA_HDRLEN + 3] = 0x80;
		at += NLMSG_ALIGN(header->nlmsg_len);
	}
}

static void capabilities(struct __user_cap_data_struct *data, long call)
{
	struct __user_cap_header_struct header = { _LINUX_CAPABILITY_VERSION_3, 0 };

	if (syscall(call, &header, data))
		abort();
}

/* Of this thread only, and for the length of one call: the kernel looks at the sender's when the message arrives. */
static ssize_t send_unprivileged(int fd, const struct msghdr *message, int flags)
{
	struct __user_cap_data_struct all[2], fewer[2];

	capabilities(all, SYS_capget);
	memcpy(fewer, all, sizeof(all));
	fewer[0].effective &= ~(1u << CAP_NET_ADMIN);
	capabilities(fewer, SYS_capset);
	ssize_t sent = REAL(sendmsg)(fd, message, flags);
	int error = errno;
	capabilities(all, SYS_capset);
	errno = error;
	return sent;
}

ssize_t sendmsg(int fd, const struct msghdr *message, int flags)
{
	char word[32];
	size_t len = 0, at = 0;

	if (!is_netfilter(fd))
		return REAL(sendmsg)(fd, message, flags);
	fault(word, sizeof(word));
	for (size_t i = 0; i < message->msg_iovlen; i++)
		len += message->msg_iov[i].iov_len;
	unsigned char *copy = malloc(len + 1);
	if (!copy)
		abort();
	for (size_t i = 0; i < message->msg_iovlen; at += message->msg_iov[i++].iov_len)
		memcpy(copy + at, message->msg_iov[i].iov_base, message->msg_iov[i].iov_len);
	struct iovec whole = { copy, len };
	struct msghdr changed = *message;
	changed.msg_iov = &whole;
	changed.msg_iovlen = 1;
	int what = kind(copy, len), unprivileged = 0;
	if (what == 2 && !strcmp(word, "hang")) {
		met(word, "commit");
		while (!strcmp(word, "hang")) {
			usleep(POLL_US);
			fault(word, sizeof(word));
		}
	}
	renamed[fd] = 0;
	retyped[fd] = 0;
	struct nlmsghdr *first = (struct nlmsghdr *)copy;
	if (what == 1 && !strcmp(word, "flowtable") && NFNL_MSG_TYPE(first->nlmsg_type) == NFT_MSG_GETFLOWTABLE) {
		first->nlmsg_type = (NFNL_SUBSYS_NFTABLES << 8) | NFT_MSG_GETTABLE;
		retyped[fd] = 1;
		met(word, "request");
	} else if (what && !strcmp(word, "eperm")) {
		unprivileged = 1;
		met(word, what == 2 ? "commit" : "request");
	} else if (what == 2 && !strcmp(word, "nochain")) {
		damage_nat(copy, len);
		met(word, "commit");
	} else if (what == 2 && !strcmp(word, "noowner")) {
		damage_owner(copy, len);
		met(word, "commit");
	} else if (what == 2 && (!strcmp(word, "fail") || !strcmp(word, "nosupport"))) {
		struct nfgenmsg *generic = NLMSG_DATA((struct nlmsghdr *)copy);
		generic->res_id = htons(NO_SUBSYSTEM);
		renamed[fd] = !strcmp(word, "fail");
		met(word, "commit");
	}
	ssize_t sent = unprivileged ? send_unprivileged(fd, &changed, flags) : REAL(sendmsg)(fd, &changed, flags);
	free(copy);
	return sent;
}

ssize_t sendto(int fd, const void *bytes, size_t len, int flags, const struct sockaddr *to, socklen_t to_len)
{
	if (!is_netfilter(fd))
		return REAL(sendto)(fd, bytes, len, flags, to, to_len);
	struct iovec whole = { (void *)bytes, len };
	struct msghdr message = { (void *)to, to_len, &whole, 1, NULL, 0, 0 };
	return sendmsg(fd, &message, flags);
}

ssize_t send(int fd, const void *bytes, size_t len, int flags)
{
	return is_netfilter(fd) ? sendto(fd, bytes, len, flags, NULL, 0) : REAL(send)(fd, bytes, len, flags);
}

/* A refusal of a transaction that went to no subsystem gets the error that was asked for; tables become flowtables. */
static void rename_refusal(int fd, unsigned char *bytes, ssize_t len)
{
	int asked = fd >= 0 && fd < MAX_FD && renamed[fd];

	/* The first attribute of both is the table's name; the second, flags that are zero, reads as an empty name. */
	for (ssize_t at = 0; fd >= 0 && fd < MAX_FD && retyped[fd] && at + (ssize_t)sizeof(struct nlmsghdr) <= len;) {
		struct nlmsghdr *header = (void *)(bytes + at);
		if (header->nlmsg_len < sizeof(*header))
			break;
		if (header->nlmsg_type == ((NFNL_SUBSYS_NFTABLES << 8) | NFT_MSG_NEWTABLE))
			header->nlmsg_type = (NFNL_SUBSYS_NFTABLES << 8) | NFT_MSG_NEWFLOWTABLE;
		at += NLMSG_ALIGN(header->nlmsg_len);
	}
	for (ssize_t at = 0; asked && at + (ssize_t)NLMSG_LENGTH(sizeof(struct nlmsgerr)) <= len;) {
		struct nlmsghdr *header = (void *)(bytes + at);
		struct nlmsgerr *refusal = NLMSG_DATA(header);
		if (header->nlmsg_type == NLMSG_ERROR && refusal->error == -EOPNOTSUPP)
			refusal->error = -ENOMEM;
		at += NLMSG_ALIGN(header->nlmsg_len);
	}
}

ssize_t recvmsg(int fd, struct msghdr *message, int flags)
{
	ssize_t n = REAL(recvmsg)(fd, message, flags);

	if (n > 0 && message->msg_iovlen > 0) {
		struct iovec *first = message->msg_iov;
		rename_refusal(fd, first->iov_base, n < (ssize_t)first->iov_len ? n : (ssize_t)first->iov_len);
	}
	return n;
}

ssize_t recvfrom(int fd, void *bytes, size_t len, int flags, struct sockaddr *from, socklen_t *from_len)
{
	ssize_t n = REAL(recvfrom)(fd, bytes, len, flags, from, from_len);

	rename_refusal(fd, bytes, n < (ssize_t)len ? n : (ssize_t)len);
	return n;
}

ssize_t recv(int fd, void *bytes, size_t len, int flags)
{
	ssize_t n = REAL(recv)(fd, bytes, len, flags);

	rename_refusal(fd, bytes, n < (ssize_t)len ? n : (ssize_t)len);
	return n;
}

int setsockopt(int fd, int level, int name, const void *value, socklen_t len)
{
	char word[32];

	if (level == SOL_NETLINK && name == NETLINK_ADD_MEMBERSHIP && is_netfilter(fd)) {
		fault(word, sizeof(word));
		if (!strcmp(word, "deaf")) {
			met(word, "socket");
			errno = EPERM;
			return -1;
		}
	}
	return REAL(setsockopt)(fd, level, name, value, len);
}

int socket(int domain, int type, int protocol)
{
	char word[32];

	if (domain == AF_NETLINK && protocol == NETLINK_NETFILTER) {
		fault(word, sizeof(word));
		if (!strcmp(word, "refuse-open")) {
			met(word, "socket");
			errno = EPROTONOSUPPORT;
			return -1;
		}
	}
	return REAL(socket)(domain, type, protocol);
}
