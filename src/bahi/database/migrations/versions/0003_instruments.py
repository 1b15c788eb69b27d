"""What may be traded, as the broker lists it"""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "instruments",
        sa.Column("symbol", sa.Text(), nullable=False),
        sa.Column("exchange", sa.String(length=24), nullable=False),
        sa.Column("token", sa.BigInteger(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("kind", sa.String(length=8), nullable=False),
        sa.Column("segment", sa.String(length=24), nullable=False),
        sa.Column("tick_size", sa.Numeric(), nullable=False),
        sa.Column("lot_size", sa.BigInteger(), nullable=False),
        sa.Column("expiry", sa.Date(), nullable=True),
        sa.Column("listed", sa.Boolean(), nullable=False),
        sa.Column("renamed_to", sa.Text(), nullable=True),
        sa.Column("downloaded_on", sa.Date(), nullable=False),
        sa.Column("lower_circuit", sa.Numeric(), nullable=True),
        sa.Column("upper_circuit", sa.Numeric(), nullable=True),
        sa.Column("quoted_on", sa.Date(), nullable=True),
        sa.Column("quoted_at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("symbol", name=op.f("pk_instruments")),
    )
    op.create_index("ix_instruments_exchange_token", "instruments", ["exchange", "token"], unique=False)
    op.create_index(op.f("ix_instruments_quoted_on"), "instruments", ["quoted_on"], unique=False)
    op.create_table(
        "instrument_dumps",
        sa.Column("exchange", sa.String(length=24), nullable=False),
        sa.Column("version", sa.BigInteger(), nullable=False),
        sa.Column("downloaded_on", sa.Date(), nullable=False),
        sa.Column("downloaded_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("listed", sa.Integer(), nullable=False),
        sa.Column("left_out", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("exchange", name=op.f("pk_instrument_dumps")),
    )


def downgrade() -> None:
    op.drop_table("instrument_dumps")
    op.drop_table("instruments")
