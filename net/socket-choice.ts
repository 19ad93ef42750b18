/**
 * Which socket a program uses: batched system calls where they can be had, node:dgram elsewhere. With the socket comes the
 * metronome that suits it. The batched socket's wait holds the main loop, so whatever must be on time is woken by that
 * wait; beside node:dgram a thread keeps the beat.
 */
import type { OpenDatagramSocket } from './datagram-socket.ts';
import { openDgramSocket } from './dgram-socket.ts';
import { loadLibc } from './linux/libc.ts';
import { Poller } from './linux/poller.ts';
import { RelayError } from './relay-error.ts';
import { type Metronome, workerMetronome } from './ticker.ts';

export const SOCKET_CHOICES = ['auto', 'dgram', 'mmsg'] as const;
export type SocketChoice = (typeof SOCKET_CHOICES)[number];
export type SocketKind = Exclude<SocketChoice, 'auto'>;

/**
 * The longest wait of an idle main loop, in ms, and so how late Node's timers and signals may come. Datagrams and the
 * metronome end the wait at once.
 */
const BLOCK_MS = 20;

export interface ChosenSocket {
  readonly kind: SocketKind;
  /** Why this kind, for the log. */
  readonly reason: string;
  readonly open: OpenDatagramSocket;
  readonly metronome: Metronome;
  /** Closes every socket that was opened, and lets the process end. Idempotent. */
  close(): void;
}

/** @throws RelayError TICKRELAY_ERR_ENGINE when the choice is `mmsg` and it can't be had */
export function chooseSocket(choice: SocketChoice): ChosenSocket {
  if (choice === 'dgram') return portableSocket('it was asked for');
  const loaded = loadLibc();
  if ('libc' in loaded) {
    const poller = new Poller(loaded.libc, { blockMs: BLOCK_MS });
    poller.drive();
    return {
      kind: 'mmsg',
      reason: choice === 'mmsg' ? 'it was asked for' : 'batched system calls are at hand',
      open: (options) => poller.open(options),
      metronome: pollerMetronome(poller),
      close: () => poller.close(),
    };
  }
  if (choice === 'auto') return portableSocket(loaded.unavailable);
  throw new RelayError(
    'TICKRELAY_ERR_ENGINE',
    `--socket mmsg can't be had: ${loaded.unavailable}. Take --socket auto, or install the optional dependency ` +
      'koffi (npm install --include=optional) on Linux',
  );
}

function portableSocket(reason: string): ChosenSocket {
  return {
    kind: 'dgram',
    reason,
    open: openDgramSocket,
    metronome: workerMetronome,
    close: () => undefined,
  };
}

function pollerMetronome(poller: Poller): Metronome {
  return (periodMs, now, wake) => {
    const startMs = now();
    return poller.every(periodMs, () => wake(startMs));
  };
}
