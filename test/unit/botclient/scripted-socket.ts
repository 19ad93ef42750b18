/** A socket whose peer is the test: it keeps the updates that were sent, and receives what the test answers. */
import { Endpoint } from '../../../net/address.ts';
import { DatagramBatch, type OpenDatagramSocket } from '../../../net/datagram-socket.ts';
import { binaryCodec } from '../../../wire/binary-codec.ts';
import { createPositionUpdate, type PositionUpdate } from '../../../wire/position-update.ts';
import { createWorldState } from '../../../wire/world-state.ts';

export const TARGET = Endpoint.parse('127.0.0.1:7777');

export interface Answer {
  readonly serverId?: number;
  readonly tick?: number;
  readonly from?: Endpoint;
}

export class ScriptedSocket {
  readonly updates: PositionUpdate[] = [];
  /** Datagrams that a full queue refuses from now on. */
  isFull = false;
  isClosed = false;
  #onReceive: (batch: DatagramBatch) => void = () => undefined;

  readonly open: OpenDatagramSocket = ({ local, onReceive }) => {
    this.#onReceive = onReceive;
    return {
      local: new Endpoint(local.ip, 40_000),
      send: (batch) => {
        if (this.isFull) return 0;
        for (let i = 0; i < batch.count; i++) {
          const update = createPositionUpdate();
          binaryCodec.decodeUpdate(batch.payloads[i]!, batch.lengths[i]!, update);
          this.updates.push(update);
        }
        return batch.count;
      },
      close: () => {
        this.isClosed = true;
        return Promise.resolve();
      },
    };
  };

  /** Answers an update with a world state of one player. */
  answer(update: PositionUpdate, { serverId = 1, tick = 0, from = TARGET }: Answer = {}): void {
    const world = createWorldState();
    world.serverId = serverId;
    world.tick = tick;
    world.count = 1;
    Object.assign(world.players[0]!, update);
    const bytes = new Uint8Array(binaryCodec.maxWorldBytes);
    this.receive(bytes.subarray(0, binaryCodec.encodeWorld(world, bytes)), from);
  }

  receive(bytes: Uint8Array, from = TARGET): void {
    const batch = new DatagramBatch(1);
    batch.append(bytes, bytes.length, from.ip.words, 0, from.port);
    this.#onReceive(batch);
  }
}
