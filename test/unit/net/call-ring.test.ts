import { describe, expect, onTestFinished, test } from 'vitest';
import { Endpoint } from '../../../net/address.ts';
import {
  EAGAIN,
  IORING_OP_RECVMSG,
  IORING_OP_SENDMSG,
  IOVEC,
  MMSGHDR,
  MSG_DONTWAIT,
  SOCKADDR_IN,
} from '../../../net/linux/abi.ts';
import { Arena } from '../../../net/linux/arena.ts';
import { CallRing, RING_ENTRIES, type RingCall } from '../../../net/linux/call-ring.ts';
import { type Libc, loadLibc } from '../../../net/linux/libc.ts';
import { bindUdp, readLocal, writeAddress } from '../../../net/linux/mmsg-socket.ts';

const EBADF = 9;
const ENOMEM = 12;
const EPERM = 1;

const loaded = loadLibc();
const whyNot = 'unavailable' in loaded ? loaded.unavailable : CallRing.whyUnavailable(loaded.libc);

describe.skipIf(whyNot !== undefined)(
  `a ring of calls${whyNot === undefined ? '' : ` (skipped: ${whyNot})`}`,
  () => {
    const { libc } = loaded as { libc: Libc };

    /** Even entries receive a datagram, odd ones send one; all on one socket, which is bound to loopback and sends to itself. */
    function rig({ over = libc } = {}) {
      const arena = new Arena(libc, 64 * 1024);
      const fd = bindUdp(libc, { local: Endpoint.parse('127.0.0.1:0') });
      writeAddress(arena, readLocal(libc, fd));
      arena.take(SOCKADDR_IN.size);
      const datas: number[] = [];
      const calls = Array.from({ length: RING_ENTRIES }, (_, i): RingCall => {
        const [header, iov, data] = [arena.take(MMSGHDR.size), arena.take(IOVEC.size), arena.take(64)];
        const isSend = i % 2 === 1;
        if (isSend) {
          arena.setPointer(header + MMSGHDR.name, 0);
          arena.u32[(header + MMSGHDR.nameLength) >> 2] = SOCKADDR_IN.size;
        }
        arena.setPointer(header + MMSGHDR.iov, iov);
        arena.u32[(header + MMSGHDR.iovLength) >> 2] = 1;
        arena.setPointer(iov + IOVEC.base, data);
        arena.u32[(iov + IOVEC.length) >> 2] = isSend ? 3 : 64;
        arena.bytes[data] = i;
        datas.push(data);
        const opcode = isSend ? IORING_OP_SENDMSG : IORING_OP_RECVMSG;
        return { opcode, header: arena.address + header, flags: MSG_DONTWAIT, isQuiet: isSend };
      });
      const ring = CallRing.open(over, calls) as CallRing;
      onTestFinished(() => {
        ring.close();
        libc.close(fd);
        arena.free();
      });
      return { ring, fd, received: (entry: number) => arena.bytes[datas[entry]!] };
    }

    test('makes its calls in the order in which they were lined up, again and again', () => {
      const { ring, fd, received } = rig();
      for (let round = 0; round < 1_000; round++) {
        const send = 1 + 2 * (round % 60);
        for (const entry of [send, send + 2, 0, 2, 4]) ring.add(entry, fd);
        ring.run();
        expect([send, send + 2, 0, 2, 4].map((entry) => ring.results[entry])).toEqual([0, 0, 3, 3, -EAGAIN]);
        expect([received(0), received(2)]).toEqual([send, send + 2]);
      }
    });

    test('tells of a call that fails, also of a quiet one, and makes the others', () => {
      const { ring, fd } = rig();
      ring.add(1, -1);
      ring.add(3, fd);
      ring.add(0, fd);
      ring.run();
      expect([1, 3, 0].map((entry) => ring.results[entry])).toEqual([-EBADF, 0, 3]);
    });

    test('takes as many calls as it has entries, and none', () => {
      const { ring, fd } = rig();
      ring.run();
      for (let entry = 1; entry < RING_ENTRIES; entry += 2) ring.add(entry, fd);
      for (let entry = 0; entry < RING_ENTRIES; entry += 2) ring.add(entry, fd);
      ring.run();
      expect([...ring.results]).toEqual(
        Array.from({ length: RING_ENTRIES }, (_, i) => (i % 2 === 0 ? 3 : 0)),
      );
    });

    test('calls that the kernel does not take fail, and are not made later', () => {
      let isFull = true;
      const enter: Libc['io_uring_enter'] = (...args) => (isFull ? -1 : libc.io_uring_enter(...args));
      const { ring, fd } = rig({ over: { ...libc, io_uring_enter: enter } });
      ring.add(1, fd);
      ring.add(3, fd);
      ring.run();
      expect([ring.results[1], ring.results[3]]).toEqual([-EAGAIN, -EAGAIN]);
      isFull = false;
      ring.add(0, fd);
      ring.run();
      expect(ring.results[0]).toBe(-EAGAIN);
    });
  },
);

describe.skipIf('unavailable' in loaded)('where there is no ring, it says why', () => {
  const { libc } = loaded as { libc: Libc };

  test.each([
    [EPERM, 'io_uring_setup: EPERM'],
    [ENOMEM, 'io_uring_setup: ENOMEM'],
  ])('errno %i: %s', (errno, reason) => {
    const refused = { ...libc, io_uring_setup: () => -1, errno: () => errno };
    expect(CallRing.whyUnavailable(refused)).toBe(reason);
  });

  test('a kernel whose io_uring is older: the ring is closed again', () => {
    const closed: number[] = [];
    const older = {
      ...libc,
      // It leaves the parameters as they were: no features.
      io_uring_setup: () => 77,
      close: (fd: number) => (closed.push(fd), 0),
    };
    expect(CallRing.whyUnavailable(older)).toBe('io_uring of this kernel lacks a feature');
    expect(closed).toEqual([77]);
  });
});
