/* Runs a program behind a socket load balancer, as Cilium's is one: connections of its cgroup to one address and port are led
 * to another of the same family at connect(2), before there is a packet.
 *
 * socklb FOLDER NAME VIP PORT BACKEND PORT -- PROGRAM ARGUMENT...
 *
 * Mounts cgroup2 on the folder, in a mount namespace of its own, makes the cgroup NAME there, enters it and becomes the
 * program. Whoever calls removes the cgroup afterwards, and the kernel the translation with it. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/bpf.h>
#include <sched.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

static void fail(const char *what)
{
    fprintf(stderr, "socklb: %s: %s\n", what, strerror(errno));
    exit(125);
}

#define LOAD(to, at) { .code = BPF_LDX | BPF_MEM | BPF_W, .dst_reg = to, .src_reg = BPF_REG_1, .off = at }
#define STORE(at, from) { .code = BPF_STX | BPF_MEM | BPF_W, .dst_reg = BPF_REG_1, .src_reg = from, .off = at }
#define SET(to, value) { .code = BPF_ALU | BPF_MOV | BPF_K, .dst_reg = to, .imm = value }
#define UNLESS(of, value, skip)                                                                           \
    { .code = BPF_JMP32 | BPF_JNE | BPF_K, .dst_reg = of, .off = skip, .imm = value }

/* An address and a port as the kernel shows them to the program, word by word, and where. */
struct place {
    __u32 words[5];
    short at[5];
    int count;
};

static struct place place(int family, const char *address, const char *port)
{
    struct place of = { .count = family == AF_INET ? 2 : 5 };
    if (inet_pton(family, address, of.words) != 1) {
        fprintf(stderr, "socklb: %s is no address of the family\n", address);
        exit(125);
    }
    int first = family == AF_INET ? offsetof(struct bpf_sock_addr, user_ip4)
                                  : offsetof(struct bpf_sock_addr, user_ip6);
    for (int i = 0; i < of.count - 1; i++)
        of.at[i] = first + 4 * i;
    of.words[of.count - 1] = htons(atoi(port));
    of.at[of.count - 1] = offsetof(struct bpf_sock_addr, user_port);
    return of;
}

int main(int count, char **words)
{
    if (count < 9 || strcmp(words[7], "--") != 0) {
        fprintf(stderr, "usage: socklb FOLDER NAME VIP PORT BACKEND PORT -- PROGRAM ARGUMENT...\n");
        return 125;
    }
    int family = strchr(words[3], ':') ? AF_INET6 : AF_INET;
    int hook = family == AF_INET ? BPF_CGROUP_INET4_CONNECT : BPF_CGROUP_INET6_CONNECT;
    struct place from = place(family, words[3], words[4]), to = place(family, words[5], words[6]);
    struct bpf_insn program[22];
    int last = 4 * from.count, length = 0;
    for (int i = 0; i < from.count; i++) {
        program[length++] = (struct bpf_insn)LOAD(BPF_REG_2, from.at[i]);
        program[length] = (struct bpf_insn)UNLESS(BPF_REG_2, (int)from.words[i], last - length - 1);
        length++;
    }
    for (int i = 0; i < to.count; i++) {
        program[length++] = (struct bpf_insn)SET(BPF_REG_2, (int)to.words[i]);
        program[length++] = (struct bpf_insn)STORE(to.at[i], BPF_REG_2);
    }
    program[length++] = (struct bpf_insn)SET(BPF_REG_0, 1);
    program[length++] = (struct bpf_insn){ .code = BPF_JMP | BPF_EXIT };
    if (unshare(CLONE_NEWNS) < 0 || mount("none", "/", NULL, MS_REC | MS_SLAVE, NULL) < 0)
        fail("have a mount namespace");
    if (mount("none", words[1], "cgroup2", 0, NULL) < 0 || chdir(words[1]) < 0)
        fail("mount cgroup2");
    if (mkdir(words[2], 0755) < 0)
        fail(words[2]);
    int cgroup = open(words[2], O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (cgroup < 0 || chdir("/") < 0)
        fail(words[2]);
    union bpf_attr load;
    memset(&load, 0, sizeof load);
    load.prog_type = BPF_PROG_TYPE_CGROUP_SOCK_ADDR;
    load.expected_attach_type = hook;
    load.insns = (unsigned long)program;
    load.insn_cnt = length;
    load.license = (unsigned long)"GPL";
    int loaded = syscall(SYS_bpf, BPF_PROG_LOAD, &load, sizeof load);
    if (loaded < 0)
        fail("load the translation");
    union bpf_attr attach;
    memset(&attach, 0, sizeof attach);
    attach.target_fd = cgroup;
    attach.attach_bpf_fd = loaded;
    attach.attach_type = hook;
    if (syscall(SYS_bpf, BPF_PROG_ATTACH, &attach, sizeof attach) < 0)
        fail("attach the translation");
    close(loaded);
    int members = openat(cgroup, "cgroup.procs", O_WRONLY | O_CLOEXEC);
    if (members < 0 || dprintf(members, "%d\n", getpid()) < 0)
        fail("enter the cgroup");
    execvp(words[8], words + 8);
    fail(words[8]);
}
